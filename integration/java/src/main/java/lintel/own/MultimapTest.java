package lintel.own;

import java.math.BigInteger;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.beam.sdk.coders.BigIntegerCoder;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.StringUtf8Coder;
import org.apache.beam.sdk.options.SdkHarnessOptions;
import org.apache.beam.sdk.state.MultimapState;
import org.apache.beam.sdk.state.StateSpec;
import org.apache.beam.sdk.state.StateSpecs;
import org.apache.beam.sdk.testing.PAssert;
import org.apache.beam.sdk.testing.TestPipeline;
import org.apache.beam.sdk.testing.TestStream;
import org.apache.beam.sdk.testing.UsesMultimapState;
import org.apache.beam.sdk.testing.UsesTestStream;
import org.apache.beam.sdk.testing.ValidatesRunner;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.joda.time.Instant;
import org.junit.Rule;
import org.junit.Test;
import org.junit.experimental.categories.Category;

/** Multimap state over several bundles, large enough to be read in pages, beside a plain map. */
public final class MultimapTest {
  @Rule public final transient TestPipeline p = TestPipeline.create();

  /** What is done to a multimap in a bundle; what is to be seen then, in it and in the next one. */
  private enum Step {
    FILL,
    REMOVE_SOME,
    ADD_TO_WHAT_IS_THERE,
    REMOVE_AND_ADD,
    CLEAR_AND_ADD,
    FILL_AGAIN,
    CLEAR;

    void apply(Multimap m) {
      switch (this) {
        case FILL:
        case FILL_AGAIN:
          for (int i = 0; i < 300; i++) { // keys of 1.2 MB in all
            m.put(key(i), i + VALUE);
            m.put(key(i), i + VALUE);
          }
          for (int i = 0; i < 600; i++) { // values of one key: 1.2 MB
            m.put("many", i + VALUE);
          }
          break;
        case REMOVE_SOME:
          for (int i = 1; i < 300; i += 2) {
            m.remove(key(i));
          }
          m.remove("none");
          break;
        case ADD_TO_WHAT_IS_THERE:
          m.put(key(0), "more");
          m.put("many", "more");
          m.put("new", "");
          break;
        case REMOVE_AND_ADD:
          m.remove("many");
          m.put("many", "anew");
          m.put("new", "dropped");
          m.remove("new");
          break;
        case CLEAR_AND_ADD:
          m.put("before", "dropped");
          m.clear();
          m.put("after", "1");
          m.put("after", "1");
          break;
        case CLEAR:
          m.clear();
          break;
      }
    }
  }

  private static final String VALUE = " value".repeat(330);

  private static String key(int i) {
    return i + " key".repeat(1000);
  }

  /** What state and a plain map have in common. */
  private interface Multimap {
    void put(String key, String value);

    void remove(String key);

    void clear();
  }

  private static final class Plain extends TreeMap<String, List<String>> implements Multimap {
    @Override
    public void put(String key, String value) {
      computeIfAbsent(key, k -> new ArrayList<>()).add(value);
    }

    @Override
    public void remove(String key) {
      super.remove(key);
    }

    /** Counts and a digest; the order of a key's values is not said anywhere. */
    String describe() {
      values().forEach(Collections::sort);
      int values = values().stream().mapToInt(List::size).sum();
      return size() + " keys, " + values + " values: " + hashCode();
    }
  }

  /** Takes steps with the state, and tells what is there before and after. */
  private static final class Walk extends DoFn<KV<String, String>, String> {
    @StateId("m")
    private final StateSpec<MultimapState<String, String>> spec =
        StateSpecs.multimap(StringUtf8Coder.of(), StringUtf8Coder.of());

    @ProcessElement
    public void process(
        @Element KV<String, String> e,
        @StateId("m") MultimapState<String, String> m,
        OutputReceiver<String> out) {
      Step step = Step.valueOf(e.getValue());
      out.output(e.getKey() + " before " + step + ": " + describe(m));
      step.apply(
          new Multimap() {
            @Override
            public void put(String key, String value) {
              m.put(key, value);
            }

            @Override
            public void remove(String key) {
              m.remove(key);
            }

            @Override
            public void clear() {
              m.clear();
            }
          });
      out.output(e.getKey() + " after " + step + ": " + describe(m));
    }

    private static String describe(MultimapState<String, String> m) {
      Plain byKeys = new Plain();
      for (String key : m.keys().read()) {
        m.get(key).read().forEach(v -> byKeys.put(key, v));
      }
      Plain byEntries = new Plain();
      m.entries().read().forEach(e -> byEntries.put(e.getKey(), e.getValue()));
      String description = byKeys.describe();
      if (!byEntries.describe().equals(description)) {
        return "by keys " + description + ", by entries " + byEntries.describe();
      }
      for (String key : List.of("many", "none", "after", key(1))) {
        if (m.containsKey(key).read() != byKeys.containsKey(key)) {
          return "containsKey(" + key + ") is wrong";
        }
      }
      return m.isEmpty().read() == byKeys.isEmpty() ? description : "isEmpty is wrong";
    }
  }

  private static List<String> expected(String key) {
    List<String> all = new ArrayList<>();
    Plain m = new Plain();
    for (Step step : Step.values()) {
      all.add(key + " before " + step + ": " + m.describe());
      step.apply(m);
      all.add(key + " after " + step + ": " + m.describe());
    }
    return all;
  }

  /** A bundle for each step. */
  private PCollection<KV<String, String>> steps(String... keys) {
    TestStream.Builder<KV<String, String>> s =
        TestStream.create(KvCoder.of(StringUtf8Coder.of(), StringUtf8Coder.of()));
    for (Step step : Step.values()) {
      for (String key : keys) {
        s = s.addElements(KV.of(key, step.name()));
      }
      s = s.advanceWatermarkTo(new Instant(step.ordinal()));
    }
    return p.apply(s.advanceWatermarkToInfinity());
  }

  private void walk() {
    List<String> expected = expected("a");
    expected.addAll(expected("b"));
    PAssert.that(steps("a", "b").apply(ParDo.of(new Walk()))).containsInAnyOrder(expected);
    p.run();
  }

  /** Beam 2.73's harness would not keep multimaps right from bundle to bundle: it must not keep them. */
  @Test
  @Category({ValidatesRunner.class, UsesMultimapState.class, UsesTestStream.class})
  public void testSteps() {
    walk();
  }

  /** All that is read comes from the runner. */
  @Test
  @Category({ValidatesRunner.class, UsesMultimapState.class, UsesTestStream.class})
  public void testStepsWithoutTheHarnessesCache() {
    p.getOptions().as(SdkHarnessOptions.class).setMaxCacheMemoryUsageMb(0);
    walk();
  }

  /** Keys and values of coders that only Java knows. */
  private static final class Numbers extends DoFn<KV<String, String>, String> {
    @StateId("m")
    private final StateSpec<MultimapState<BigInteger, BigInteger>> spec =
        StateSpecs.multimap(BigIntegerCoder.of(), BigIntegerCoder.of());

    @ProcessElement
    public void process(@StateId("m") MultimapState<BigInteger, BigInteger> m, OutputReceiver<String> out) {
      m.put(BigInteger.ONE.shiftLeft(100), BigInteger.TWO);
      m.put(BigInteger.ONE, BigInteger.TEN.negate());
      Map<BigInteger, Integer> sizes = new TreeMap<>();
      for (BigInteger key : m.keys().read()) {
        List<BigInteger> values = new ArrayList<>();
        m.get(key).read().forEach(values::add);
        sizes.merge(key, values.size(), Integer::sum);
      }
      out.output(sizes.toString());
    }
  }

  @Test
  @Category({ValidatesRunner.class, UsesMultimapState.class, UsesTestStream.class})
  public void testCodersOfItsOwn() {
    p.getOptions().as(SdkHarnessOptions.class).setMaxCacheMemoryUsageMb(0);
    String large = BigInteger.ONE.shiftLeft(100).toString();
    List<String> expected =
        Arrays.stream(Step.values())
            .map(s -> s.ordinal() + 1)
            .map(n -> "{1=" + n + ", " + large + "=" + n + "}")
            .collect(Collectors.toList());
    PAssert.that(steps("a").apply(ParDo.of(new Numbers()))).containsInAnyOrder(expected);
    p.run();
  }
}
