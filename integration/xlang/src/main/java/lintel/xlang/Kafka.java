package lintel.xlang;

import com.google.common.collect.ImmutableMap;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import org.apache.beam.sdk.coders.ByteArrayCoder;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.expansion.ExternalTransformRegistrar;
import org.apache.beam.sdk.io.kafka.KafkaIO;
import org.apache.beam.sdk.io.kafka.KafkaRecord;
import org.apache.beam.sdk.io.kafka.ProducerRecordCoder;
import org.apache.beam.sdk.options.ExperimentalOptions;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.ExternalTransformBuilder;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PBegin;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PDone;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** What KafkaIO has in Java only: offsets committed when a bundle is finalised, records written exactly once. */
public final class Kafka implements ExternalTransformRegistrar {
  /** The longest that a broker may be away. */
  private static final int OUTAGE_MS = 600_000;

  @Override
  public Map<String, ExternalTransformBuilder<?, ?, ?>> knownBuilderInstances() {
    return ImmutableMap.of(
        "lintel:kafka:read_finalised:v1", new ReadFinalised(),
        "lintel:kafka:write_exactly_once:v1", new WriteExactlyOnce());
  }

  /** Of the payloads. */
  public static final class Configuration {
    private String servers = "";
    private String topic = "";
    private String group = "";
    private String observed = "";
    private Long shards = 0L;
    private Long timeout = 0L;

    public void setServers(String servers) {
      this.servers = servers;
    }

    public void setTopic(String topic) {
      this.topic = topic;
    }

    public void setGroup(String group) {
      this.group = group;
    }

    /** Sets the file to which a line goes for each record that is read. */
    public void setObserved(String observed) {
      this.observed = observed;
    }

    public void setShards(Long shards) {
      this.shards = shards;
    }

    /** Sets after how many ms the broker aborts a transaction that nobody ends. */
    public void setTimeout(Long timeout) {
      this.timeout = timeout;
    }
  }

  /** Reads by an UnboundedSource, as Java's pipelines do unless told otherwise. */
  private static final class ReadFinalised
      implements ExternalTransformBuilder<Configuration, PBegin, PCollection<KV<byte[], byte[]>>> {
    @Override
    public PTransform<PBegin, PCollection<KV<byte[], byte[]>>> buildExternal(Configuration c) {
      KafkaIO.Read<byte[], byte[]> read =
          KafkaIO.<byte[], byte[]>read()
              .withBootstrapServers(c.servers)
              .withTopic(c.topic)
              .withKeyDeserializerAndCoder(ByteArrayDeserializer.class, ByteArrayCoder.of())
              .withValueDeserializerAndCoder(ByteArrayDeserializer.class, ByteArrayCoder.of())
              .withConsumerConfigUpdates(
                  ImmutableMap.of(
                      ConsumerConfig.GROUP_ID_CONFIG, c.group,
                      ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest"))
              .withReadCommitted()
              .commitOffsetsInFinalize();
      String observed = c.observed;
      return PTransform.compose(
          in -> {
            ExperimentalOptions.addExperiment(
                in.getPipeline().getOptions().as(ExperimentalOptions.class), "use_unbounded_sdf_wrapper");
            return in.apply(read)
                .apply(ParDo.of(new Observe(observed)))
                .setCoder(KvCoder.of(ByteArrayCoder.of(), ByteArrayCoder.of()));
          });
    }
  }

  /** Notes in the bundle that reads a record when this function came to be, the partition and the offset. */
  private static final class Observe extends DoFn<KafkaRecord<byte[], byte[]>, KV<byte[], byte[]>> {
    private final String file;
    private transient long since;

    Observe(String file) {
      this.file = file;
    }

    @Setup
    public void setup() {
      since = System.currentTimeMillis();
    }

    @ProcessElement
    public void process(
        @Element KafkaRecord<byte[], byte[]> e, OutputReceiver<KV<byte[], byte[]>> out) throws IOException {
      Files.writeString(
          Path.of(file),
          String.format("%d %d %d%n", since, e.getPartition(), e.getOffset()),
          StandardOpenOption.CREATE,
          StandardOpenOption.APPEND);
      out.output(e.getKV());
    }
  }

  private static final class WriteExactlyOnce
      implements ExternalTransformBuilder<Configuration, PCollection<KV<byte[], byte[]>>, PDone> {
    @Override
    public PTransform<PCollection<KV<byte[], byte[]>>, PDone> buildExternal(Configuration c) {
      KafkaIO.WriteRecords<byte[], byte[]> write =
          KafkaIO.<byte[], byte[]>writeRecords()
              .withBootstrapServers(c.servers)
              .withTopic(c.topic)
              .withKeySerializer(ByteArraySerializer.class)
              .withValueSerializer(ByteArraySerializer.class)
              .withProducerConfigUpdates(
                  ImmutableMap.of(
                      ProducerConfig.TRANSACTION_TIMEOUT_CONFIG, c.timeout.intValue(),
                      // The sink keeps a producer whose calls have timed out, and fails with it from then on.
                      ProducerConfig.MAX_BLOCK_MS_CONFIG, OUTAGE_MS,
                      ProducerConfig.DELIVERY_TIMEOUT_MS_CONFIG, OUTAGE_MS))
              .withEOS(c.shards.intValue(), c.group);
      String topic = c.topic;
      // Not applied but expanded: applied it refuses runners that Beam doesn't list.
      return PTransform.compose(
          in -> write.expand(
              in.apply(ParDo.of(new ToRecord(topic)))
                  .setCoder(ProducerRecordCoder.of(ByteArrayCoder.of(), ByteArrayCoder.of()))));
    }
  }

  private static final class ToRecord extends DoFn<KV<byte[], byte[]>, ProducerRecord<byte[], byte[]>> {
    private final String topic;

    ToRecord(String topic) {
      this.topic = topic;
    }

    @ProcessElement
    public void process(
        @Element KV<byte[], byte[]> e, OutputReceiver<ProducerRecord<byte[], byte[]>> out) {
      out.output(new ProducerRecord<>(topic, e.getKey(), e.getValue()));
    }
  }
}
