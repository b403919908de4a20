package lintel.own;

import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.testing.PAssert;
import org.apache.beam.sdk.testing.TestPipeline;
import org.apache.beam.sdk.testing.TestStream;
import org.apache.beam.sdk.testing.UsesTestStream;
import org.apache.beam.sdk.testing.ValidatesRunner;
import org.apache.beam.sdk.transforms.Create;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.View;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.transforms.windowing.IntervalWindow;
import org.apache.beam.sdk.transforms.windowing.NonMergingWindowFn;
import org.apache.beam.sdk.transforms.windowing.Window;
import org.apache.beam.sdk.transforms.windowing.WindowFn;
import org.apache.beam.sdk.transforms.windowing.WindowMappingFn;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PCollectionView;
import org.apache.beam.sdk.values.TimestampedValue;
import org.joda.time.Instant;
import org.junit.Rule;
import org.junit.Test;
import org.junit.experimental.categories.Category;

/** Window functions of our own, where Beam's suite has none: side inputs are read a window late. */
public final class WindowsTest {
  @Rule public final transient TestPipeline p = TestPipeline.create();

  /** Windows of 10 ms; as side inputs, those before. */
  private static final class Late extends NonMergingWindowFn<Object, IntervalWindow> {
    @Override
    public Collection<IntervalWindow> assignWindows(AssignContext c) {
      return Collections.singletonList(at(c.timestamp().getMillis()));
    }

    static IntervalWindow at(long millis) {
      long start = Math.floorDiv(millis, 10L) * 10;
      return new IntervalWindow(new Instant(start), new Instant(start + 10));
    }

    @Override
    public boolean isCompatible(WindowFn<?, ?> other) {
      return other instanceof Late;
    }

    @Override
    public Coder<IntervalWindow> windowCoder() {
      return IntervalWindow.getCoder();
    }

    @Override
    public WindowMappingFn<IntervalWindow> getDefaultWindowMappingFn() {
      return new Before();
    }
  }

  private static final class Before extends WindowMappingFn<IntervalWindow> {
    @Override
    public IntervalWindow getSideInputWindow(BoundedWindow main) {
      return Late.at(((IntervalWindow) main).start().getMillis() - 1);
    }
  }

  /** Pairs elements with the side input that they see. */
  private static final class Show extends DoFn<Integer, String> {
    private final PCollectionView<List<Integer>> view;

    Show(PCollectionView<List<Integer>> view) {
      this.view = view;
    }

    @ProcessElement
    public void process(ProcessContext c) {
      List<Integer> side = new ArrayList<>(c.sideInput(view));
      Collections.sort(side);
      c.output(c.element() + " " + side);
    }
  }

  private void check(PCollection<Integer> main, PCollection<Integer> side) {
    PCollectionView<List<Integer>> view =
        side.apply("side windows", Window.into(new Late())).apply(View.asList());
    PCollection<String> shown =
        main.apply("main windows", Window.into(new Late()))
            .apply(ParDo.of(new Show(view)).withSideInputs(view));
    PAssert.that(shown).containsInAnyOrder("3 []", "12 [101, 102]", "25 [111]");
    p.run();
  }

  @SafeVarargs
  private static Create.TimestampedValues<Integer> at(TimestampedValue<Integer>... values) {
    return Create.timestamped(List.of(values));
  }

  private static TimestampedValue<Integer> of(int value, long millis) {
    return TimestampedValue.of(value, new Instant(millis));
  }

  @Test
  @Category(ValidatesRunner.class)
  public void testMappingOfItsOwn() {
    check(
        p.apply("main", at(of(3, 3), of(12, 12), of(25, 25))),
        p.apply("side", at(of(101, 1), of(102, 2), of(111, 11), of(121, 21))));
  }

  @Test
  @Category({ValidatesRunner.class, UsesTestStream.class})
  public void testElementsWaitForTheWindowThatTheirsIsMappedTo() {
    check(
        p.apply("main", TestStream.create(VarIntCoder.of())
            .addElements(of(3, 3), of(12, 12), of(25, 25))
            .advanceWatermarkToInfinity()),
        p.apply("side", TestStream.create(VarIntCoder.of())
            .addElements(of(101, 1))
            .advanceWatermarkTo(new Instant(2))
            .addElements(of(102, 2))
            .advanceWatermarkTo(new Instant(10))
            .addElements(of(111, 11), of(121, 21))
            .advanceWatermarkToInfinity()));
  }
}
