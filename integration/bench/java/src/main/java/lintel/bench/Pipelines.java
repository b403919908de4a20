package lintel.bench;

import java.io.Serializable;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.LongStream;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.coders.VarLongCoder;
import org.apache.beam.sdk.state.StateSpec;
import org.apache.beam.sdk.state.StateSpecs;
import org.apache.beam.sdk.state.ValueState;
import org.apache.beam.sdk.transforms.Create;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.Reshuffle;
import org.apache.beam.sdk.transforms.Sum;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.transforms.windowing.FixedWindows;
import org.apache.beam.sdk.transforms.windowing.Window;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.joda.time.Duration;
import org.joda.time.Instant;

/** The pipelines, each beside the same in plain Java. */
final class Pipelines {
  private static final long SHARDS = 4;
  private static final long BASE_MS = 1_600_000_000_000L;
  private static final long WINDOW_MS = 10_000;
  private static final long SPAN_MS = 600_000;

  private Pipelines() {}

  /** How much: n elements of k keys, with values of v bytes where values are bytes. */
  static final class Size implements Serializable {
    final long n;
    final long k;
    final int v;

    Size(long n, long k, long v) {
      this.n = n;
      this.k = k;
      this.v = Math.toIntExact(v);
    }

    long key(long i) {
      return Long.remainderUnsigned(Digest.mix(i + 77), k);
    }

    byte[] value(long i) {
      byte[] value = new byte[v];
      for (int j = 0; j < v; j++) {
        value[j] = (byte) (i * 31 + j);
      }
      return value;
    }

    long timestamp(long i) {
      return BASE_MS + i * SPAN_MS / n;
    }
  }

  /** A pipeline that ends in {@link Digest#SEEN}, and what should come to it. */
  interface Case {
    void build(Pipeline pipeline);

    void plain(Digest want);
  }

  static Case byName(String name, Size size) {
    switch (name) {
      case "java-gbk":
        return new Grouped(size);
      case "java-stateful":
        return new Stateful(size);
      case "java-windows":
        return new Windowed(size);
      default:
        throw new IllegalArgumentException("no pipeline " + name + ": java-gbk, java-stateful, java-windows");
    }
  }

  /** One DoFn call for each shard, on as many workers as there are. */
  private static PCollection<Long> shards(Pipeline pipeline) {
    return pipeline
        .apply(Create.of(LongStream.range(0, SHARDS).boxed().collect(Collectors.toList())))
        .apply(Reshuffle.viaRandomKey());
  }

  /** Calls for each i of a shard. */
  private abstract static class Source<T> extends DoFn<Long, T> {
    final Size size;

    Source(Size size) {
      this.size = size;
    }

    @ProcessElement
    public void process(@Element Long shard, OutputReceiver<T> out) {
      Digest.SEEN.begin();
      for (long i = size.n * shard / SHARDS; i < size.n * (shard + 1) / SHARDS; i++) {
        emit(i, out);
      }
    }

    abstract void emit(long i, OutputReceiver<T> out);
  }

  /** What ends in {@link Digest#SEEN}. */
  private abstract static class Sink<T> extends DoFn<T, Void> {
    @FinishBundle
    public void finish() {
      Digest.SEEN.end();
    }
  }

  /** Group by key of values of v bytes. */
  private static final class Grouped implements Case {
    private final Size size;

    Grouped(Size size) {
      this.size = size;
    }

    @Override
    public void build(Pipeline pipeline) {
      shards(pipeline).apply(ParDo.of(new Values(size))).apply(GroupByKey.create()).apply(ParDo.of(new GroupSink()));
    }

    @Override
    public void plain(Digest want) {
      for (long i = 0; i < size.n; i++) {
        want.add(Digest.hash(size.key(i), Arrays.hashCode(size.value(i))));
      }
    }

    private static final class Values extends Source<KV<Long, byte[]>> {
      Values(Size size) {
        super(size);
      }

      @Override
      void emit(long i, OutputReceiver<KV<Long, byte[]>> out) {
        out.output(KV.of(size.key(i), size.value(i)));
      }
    }

    private static final class GroupSink extends Sink<KV<Long, Iterable<byte[]>>> {
      @ProcessElement
      public void process(@Element KV<Long, Iterable<byte[]>> group) {
        for (byte[] value : group.getValue()) {
          Digest.SEEN.add(Digest.hash(group.getKey(), Arrays.hashCode(value)));
        }
      }
    }
  }

  /** Counts the elements of each key in a value state, and gives each its number. */
  private static final class Stateful implements Case {
    private final Size size;

    Stateful(Size size) {
      this.size = size;
    }

    @Override
    public void build(Pipeline pipeline) {
      shards(pipeline).apply(ParDo.of(new Pairs(size))).apply(ParDo.of(new Count())).apply(ParDo.of(new PairSink()));
    }

    @Override
    public void plain(Digest want) {
      Map<Long, Long> counts = new HashMap<>();
      for (long i = 0; i < size.n; i++) {
        want.add(Digest.hash(size.key(i), counts.merge(size.key(i), 1L, Long::sum)));
      }
    }

    private static final class Pairs extends Source<KV<Long, Long>> {
      Pairs(Size size) {
        super(size);
      }

      @Override
      void emit(long i, OutputReceiver<KV<Long, Long>> out) {
        out.output(KV.of(size.key(i), i));
      }
    }

    private static final class Count extends DoFn<KV<Long, Long>, KV<Long, Long>> {
      @StateId("count")
      private final StateSpec<ValueState<Long>> spec = StateSpecs.value(VarLongCoder.of());

      @ProcessElement
      public void process(
          @Element KV<Long, Long> element, @StateId("count") ValueState<Long> count, OutputReceiver<KV<Long, Long>> out) {
        Long before = count.read();
        long now = before == null ? 1 : before + 1;
        count.write(now);
        out.output(KV.of(element.getKey(), now));
      }
    }

    private static final class PairSink extends Sink<KV<Long, Long>> {
      @ProcessElement
      public void process(@Element KV<Long, Long> element) {
        Digest.SEEN.add(Digest.hash(element.getKey(), element.getValue()));
      }
    }
  }

  /** Counts per key in fixed windows of 10 s. */
  private static final class Windowed implements Case {
    private final Size size;

    Windowed(Size size) {
      this.size = size;
    }

    @Override
    public void build(Pipeline pipeline) {
      shards(pipeline)
          .apply(ParDo.of(new Events(size)))
          .apply(Window.into(FixedWindows.of(Duration.millis(WINDOW_MS))))
          .apply(Sum.longsPerKey())
          .apply(ParDo.of(new WindowSink()));
    }

    @Override
    public void plain(Digest want) {
      Map<Long, Map<Long, Long>> counts = new HashMap<>();
      for (long i = 0; i < size.n; i++) {
        long t = size.timestamp(i);
        long end = t - t % WINDOW_MS + WINDOW_MS - 1;
        counts.computeIfAbsent(end, e -> new HashMap<>()).merge(size.key(i), 1L, Long::sum);
      }
      counts.forEach((end, keys) -> keys.forEach((key, count) -> want.add(Digest.hash(end, key, count))));
    }

    private static final class Events extends Source<KV<Long, Long>> {
      Events(Size size) {
        super(size);
      }

      @Override
      void emit(long i, OutputReceiver<KV<Long, Long>> out) {
        out.outputWithTimestamp(KV.of(size.key(i), 1L), Instant.ofEpochMilli(size.timestamp(i)));
      }

      @Override
      @SuppressWarnings("deprecation") // the element before it, of Create, is at the beginning of time
      public Duration getAllowedTimestampSkew() {
        return Duration.millis(Long.MAX_VALUE);
      }
    }

    private static final class WindowSink extends Sink<KV<Long, Long>> {
      @ProcessElement
      public void process(@Element KV<Long, Long> count, BoundedWindow window) {
        Digest.SEEN.add(Digest.hash(window.maxTimestamp().getMillis(), count.getKey(), count.getValue()));
      }
    }
  }
}
