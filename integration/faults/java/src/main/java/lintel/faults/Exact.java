package lintel.faults;

import java.io.FileOutputStream;
import java.io.IOException;
import java.io.Serializable;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.apache.beam.runners.portability.PortableRunner;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.coders.SerializableCoder;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.coders.VarLongCoder;
import org.apache.beam.sdk.options.Default;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.options.PortablePipelineOptions;
import org.apache.beam.sdk.state.BagState;
import org.apache.beam.sdk.state.StateSpec;
import org.apache.beam.sdk.state.StateSpecs;
import org.apache.beam.sdk.state.TimeDomain;
import org.apache.beam.sdk.state.Timer;
import org.apache.beam.sdk.state.TimerSpec;
import org.apache.beam.sdk.state.TimerSpecs;
import org.apache.beam.sdk.state.ValueState;
import org.apache.beam.sdk.transforms.Create;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.Flatten;
import org.apache.beam.sdk.transforms.GroupByKey;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.PeriodicSequence;
import org.apache.beam.sdk.transforms.Sum;
import org.apache.beam.sdk.transforms.WithKeys;
import org.apache.beam.sdk.transforms.windowing.AfterWatermark;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.transforms.windowing.FixedWindows;
import org.apache.beam.sdk.transforms.windowing.GlobalWindows;
import org.apache.beam.sdk.transforms.windowing.Window;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionList;
import org.joda.time.Duration;
import org.joda.time.Instant;

/**
 * The pipeline of ../../pipelines/exact.go in Java: adds up an unbounded input that ends, in user state
 * with timers of both kinds, in groups and in accumulators, and fails if a total is missing, wrong or
 * there twice. What its totals were, again after each failure, is added to a file. It is left running when
 * it has been submitted.
 */
public final class Exact {
  private static final long WINDOW = 500;

  /** The options of this program. */
  public interface Options extends PortablePipelineOptions {
    /** Elements of a shard. */
    @Default.Long(100)
    long getElements();

    void setElements(long n);

    /** Ms from one element to the next. */
    @Default.Long(50)
    long getEvery();

    void setEvery(long ms);

    /** The file that totals are added to. */
    @Default.String("/dev/null")
    String getObserved();

    void setObserved(String path);

    /** For the runner: the time between checkpoints. */
    String getCheckpointInterval();

    void setCheckpointInterval(String interval);
  }

  /** What a branch of the pipeline has of a key in a window is a line: branch, key, window's last ms, count, sum, xor. */
  private static String total(String branch, long key, long window, Sums sums) {
    return branch + " " + key + " " + window + " " + sums.count + " " + sums.sum + " " + sums.xor;
  }

  private static final class Sums implements Serializable {
    private long count;
    private long sum;
    private long xor;

    void add(long id) {
      count++;
      sum += id;
      xor ^= mix(id);
    }

    @Override
    public boolean equals(Object o) {
      return o instanceof Sums && count == ((Sums) o).count && sum == ((Sums) o).sum && xor == ((Sums) o).xor;
    }

    @Override
    public int hashCode() {
      return Objects.hash(count, sum, xor);
    }
  }

  /** Scatters the bits of a number. */
  private static long mix(long i) {
    long x = i + 0x9e3779b97f4a7c15L;
    x = (x ^ x >>> 30) * 0xbf58476d1ce4e5b9L;
    x = (x ^ x >>> 27) * 0x94d049bb133111ebL;
    return x ^ x >>> 31;
  }

  /** Knows the totals: each shard has n elements, one every so many ms from start on, which go to the keys in turn. */
  private static final class Oracle implements Serializable {
    private final long start;
    private final long every;
    private final long n;
    private final long shards = 2;
    private final long keys = 10;

    Oracle(long start, long every, long n) {
      this.start = start;
      this.every = every;
      this.n = n;
    }

    Set<String> want() {
      Map<KV<Long, Long>, Sums> all = new HashMap<>();
      for (long id = 0; id < shards * n; id++) {
        long at = start + id % n * every;
        all.computeIfAbsent(KV.of(id % keys, at - at % WINDOW + WINDOW - 1), k -> new Sums()).add(id);
      }
      Set<String> want = new HashSet<>();
      all.forEach(
          (place, sums) -> {
            want.add(total("state", place.getKey(), place.getValue(), sums));
            want.add(total("group", place.getKey(), place.getValue(), sums));
            want.add(total("combine", place.getKey(), place.getValue(), sumOnly(sums.sum)));
          });
      return want;
    }
  }

  private static Sums sumOnly(long sum) {
    Sums s = new Sums();
    s.sum = sum;
    return s;
  }

  /** Gives the elements of a shard their ids and keys. */
  private static final class Name extends DoFn<Instant, KV<Long, Long>> {
    private final Oracle oracle;
    private final long shard;

    Name(Oracle oracle, long shard) {
      this.oracle = oracle;
      this.shard = shard;
    }

    @ProcessElement
    public void process(@Element Instant at, OutputReceiver<KV<Long, Long>> out) {
      long id = shard * oracle.n + (at.getMillis() - oracle.start) / oracle.every;
      out.output(KV.of(id % oracle.keys, id));
    }
  }

  /** Keeps ids in a bag for 50 ms, then adds them up, and gives the sums at the end of the window. */
  private static final class Tally extends DoFn<KV<Long, Long>, String> {
    @StateId("bag")
    private final StateSpec<BagState<Long>> bagSpec = StateSpecs.bag(VarLongCoder.of());

    @StateId("sums")
    private final StateSpec<ValueState<Sums>> sumsSpec =
        StateSpecs.value(SerializableCoder.of(Sums.class));

    @StateId("waits")
    private final StateSpec<ValueState<Integer>> waitsSpec = StateSpecs.value(VarIntCoder.of());

    @TimerId("soon")
    private final TimerSpec soonSpec = TimerSpecs.timer(TimeDomain.PROCESSING_TIME);

    @TimerId("end")
    private final TimerSpec endSpec = TimerSpecs.timer(TimeDomain.EVENT_TIME);

    @ProcessElement
    public void process(
        @Element KV<Long, Long> e,
        BoundedWindow w,
        @StateId("bag") BagState<Long> bag,
        @StateId("waits") ValueState<Integer> waits,
        @TimerId("soon") Timer soon,
        @TimerId("end") Timer end) {
      bag.add(e.getValue());
      end.set(w.maxTimestamp());
      if (waits.read() == null) {
        waits.write(1);
        soon.offset(Duration.millis(50)).setRelative();
      }
    }

    private static Sums move(BagState<Long> bag, ValueState<Sums> sums) {
      Sums s = sums.read() == null ? new Sums() : sums.read();
      bag.read().forEach(s::add);
      bag.clear();
      sums.write(s);
      return s;
    }

    @OnTimer("soon")
    public void collect(
        @StateId("bag") BagState<Long> bag,
        @StateId("sums") ValueState<Sums> sums,
        @StateId("waits") ValueState<Integer> waits) {
      move(bag, sums);
      waits.clear();
    }

    @OnTimer("end")
    public void tell(
        @Key Long key,
        BoundedWindow w,
        @StateId("bag") BagState<Long> bag,
        @StateId("sums") ValueState<Sums> sums,
        @TimerId("soon") Timer soon,
        OutputReceiver<String> out) {
      out.output(total("state", key, w.maxTimestamp().getMillis(), move(bag, sums)));
      soon.clear();
      sums.clear();
    }
  }

  private static final class AddGroup extends DoFn<KV<Long, Iterable<Long>>, String> {
    @ProcessElement
    public void process(@Element KV<Long, Iterable<Long>> e, BoundedWindow w, OutputReceiver<String> out) {
      Sums s = new Sums();
      e.getValue().forEach(s::add);
      out.output(total("group", e.getKey(), w.maxTimestamp().getMillis(), s));
    }
  }

  private static final class TakeSum extends DoFn<KV<Long, Long>, String> {
    @ProcessElement
    public void process(@Element KV<Long, Long> e, BoundedWindow w, OutputReceiver<String> out) {
      out.output(total("combine", e.getKey(), w.maxTimestamp().getMillis(), sumOnly(e.getValue())));
    }
  }

  /** Notes each total in a file, at once and before anything is durable. */
  private static final class Observe extends DoFn<String, String> {
    private final String path;
    private transient FileOutputStream file;

    Observe(String path) {
      this.path = path;
    }

    @Setup
    public void open() throws IOException {
      file = new FileOutputStream(path, true);
    }

    @ProcessElement
    public void process(@Element String total, OutputReceiver<String> out) throws IOException {
      file.write((total + "\n").getBytes(StandardCharsets.UTF_8));
      out.output(total);
    }

    @Teardown
    public void close() throws IOException {
      file.close();
    }
  }

  /** Compares all totals with those of the oracle. */
  private static final class Verify extends DoFn<KV<Integer, Iterable<String>>, Void> {
    private final Oracle oracle;

    Verify(Oracle oracle) {
      this.oracle = oracle;
    }

    @ProcessElement
    public void process(@Element KV<Integer, Iterable<String>> e) {
      Set<String> want = oracle.want();
      List<String> more = new ArrayList<>();
      for (String total : e.getValue()) {
        if (!want.remove(total)) {
          more.add(total);
        }
      }
      if (!want.isEmpty() || !more.isEmpty()) {
        throw new IllegalStateException("wrong or double: " + more + ", missing: " + want);
      }
    }
  }

  public static void main(String[] args) {
    PipelineOptionsFactory.register(Options.class);
    Options options = PipelineOptionsFactory.fromArgs(args).as(Options.class);
    options.setRunner(PortableRunner.class);
    long start = System.currentTimeMillis();
    Oracle oracle = new Oracle(start, options.getEvery(), options.getElements());
    Pipeline p = Pipeline.create(options);
    PCollectionList<KV<Long, Long>> shards = PCollectionList.empty(p);
    for (long shard = 0; shard < oracle.shards; shard++) {
      PeriodicSequence.SequenceDefinition sequence =
          new PeriodicSequence.SequenceDefinition(
              new Instant(start), new Instant(start + (oracle.n - 1) * oracle.every), Duration.millis(oracle.every));
      shards =
          shards.and(
              p.apply("times" + shard, Create.of(sequence))
                  .apply("shard" + shard, PeriodicSequence.create())
                  .apply("ids" + shard, ParDo.of(new Name(oracle, shard))));
    }
    PCollection<KV<Long, Long>> ids =
        shards.apply(Flatten.pCollections()).apply(Window.into(FixedWindows.of(Duration.millis(WINDOW))));
    PCollectionList.of(ids.apply("state", ParDo.of(new Tally())))
        .and(ids.apply("group", GroupByKey.create()).apply("add", ParDo.of(new AddGroup())))
        .and(ids.apply("combine", Sum.longsPerKey()).apply("take", ParDo.of(new TakeSum())))
        .apply("totals", Flatten.pCollections())
        .apply("observe", ParDo.of(new Observe(options.getObserved())))
        .apply(
            "together",
            Window.<String>into(new GlobalWindows())
                .triggering(AfterWatermark.pastEndOfWindow())
                .withAllowedLateness(Duration.ZERO)
                .discardingFiredPanes())
        .apply(WithKeys.of(0))
        .apply("all", GroupByKey.create())
        .apply("verify", ParDo.of(new Verify(oracle)));
    p.run();
    System.exit(0); // the client's threads would watch the job
  }
}
