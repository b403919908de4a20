"""Tests of windows of our own, where Beam's suite has none: custom mapping and
merging, elements in no window, the ends of time."""
import typing

import apache_beam as beam
from apache_beam import coders
from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import trigger
from apache_beam.transforms import window
from apache_beam.transforms.window import BoundedWindow
from apache_beam.transforms.window import IntervalWindow
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils import windowed_value
from apache_beam.utils.timestamp import MAX_TIMESTAMP
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.timestamp import Timestamp


class Season(BoundedWindow):
  """A window that only this SDK knows."""
  def __init__(self, first, last):
    super().__init__(last + 1)
    self.first, self.last = first, last

  def __eq__(self, other):
    return isinstance(other, Season) and self.key() == other.key()

  def __hash__(self):
    return hash(self.key())

  def key(self):
    return self.first, self.last

  def __repr__(self):
    return 'Season%r' % (self.key(), )


class SeasonCoder(coders.Coder):
  def encode(self, w):
    return b'%d..%d' % w.key()

  def decode(self, b):
    return Season(*map(int, b.split(b'..')))

  def is_deterministic(self):
    return True


class Seasons(window.WindowFn):
  """Windows that merge where the days follow one another."""
  def __init__(self, fail=''):
    self.fail = fail

  def assign(self, context):
    day = int(context.timestamp)
    return [Season(day, day)]

  def get_window_coder(self):
    return SeasonCoder()

  def merge(self, context):
    if self.fail:
      raise RuntimeError(self.fail)
    run = []
    for w in sorted(context.windows, key=Season.key) + [None]:
      if run and (w is None or w.first > run[-1].last + 1):
        if len(run) > 1:
          context.merge(run, Season(run[0].first, run[-1].last))
        run = []
      run.append(w)


class Tens(window.NonMergingWindowFn):
  """Windows whose end says little: side inputs are mapped to those before."""
  def assign(self, context):
    start = int(context.timestamp) // 10 * 10
    return [IntervalWindow(start, start + 10)]

  def get_window_coder(self):
    return coders.coders.IntervalWindowCoder()


class at(beam.PTransform):
  """Makes elements, given with their timestamps."""
  def __init__(self, *elements):
    super().__init__()
    self.elements = elements

  def expand(self, pipeline):
    return (
        pipeline | beam.Create(self.elements, reshuffle=False)
        | beam.MapTuple(TimestampedValue).with_output_types(typing.Any))


def days(key, *days_):
  return [((key, d), d) for d in days_]


class WindowsTests:
  """A mixin of FnApiRunnerTest's kind."""
  def streaming_pipeline(self):
    """A pipeline with a TestStream is one in streaming, whatever the suite."""
    options = self.create_options()
    options.view_as(StandardOptions).streaming = True
    return beam.Pipeline(self.get_runner(), options=options)

  def test_own_merging_windows_of_many_keys(self):
    many = [e for k in range(100) for e in days('k%d' % k, 1, 2, 3, 7, 8, 20)]
    with self.create_pipeline() as p:
      got = (
          p | at(*days('a', 3, 1, 2, 9, 11, 10), *days('b', 5), *many)
          | beam.WindowInto(Seasons())
          | beam.GroupByKey()
          | beam.MapTuple(
              lambda k, vs, w=beam.DoFn.WindowParam, t=beam.DoFn.TimestampParam:
              (k, sorted(vs), w.key(), t.micros // 1000 == w.max_timestamp().micros // 1000)))
      want = [('a', [1, 2, 3], (1, 3), True), ('a', [9, 10, 11], (9, 11), True), ('b', [5], (5, 5), True)]
      for k in range(100):
        want += [('k%d' % k, list(range(a, b + 1)), (a, b), True) for a, b in ((1, 3), (7, 8), (20, 20))]
      assert_that(got, equal_to(want))

  def test_own_merging_windows_combined(self):
    with self.create_pipeline() as p:
      got = (
          p | at(*days('a', 3, 1, 2, 9), *days('b', 5))
          | beam.WindowInto(Seasons())
          | beam.CombinePerKey(sum)
          | beam.MapTuple(lambda k, n, w=beam.DoFn.WindowParam: (k, n, w.key())))
      assert_that(got, equal_to([('a', 6, (1, 3)), ('a', 9, (9, 9)), ('b', 5, (5, 5))]))

  def test_failing_merge_shows_the_users_error(self):
    with self.assertRaisesRegex(Exception, 'no such season'):
      with self.create_pipeline() as p:
        _ = p | at(*days('a', 1, 2)) | beam.WindowInto(Seasons('no such season')) | beam.GroupByKey()

  def test_side_input_with_a_mapping_of_its_own(self):
    with self.create_pipeline() as p:
      main = p | 'main' >> at(*[(t, t) for t in (3, 12, 25, 31)]) | 'tens' >> beam.WindowInto(Tens())
      side = p | 'side' >> at(*[(100 + t, t) for t in (1, 2, 11, 22)]) | 'tens too' >> beam.WindowInto(Tens())
      view = beam.pvalue.AsList(side)
      view._window_mapping_fn = lambda w: IntervalWindow(w.start - 10, w.start)
      got = main | beam.Map(lambda x, s: (x, sorted(s)), view)
      assert_that(got, equal_to([(3, []), (12, [101, 102]), (25, [111]), (31, [122])]))

  def test_elements_wait_for_the_window_that_theirs_is_mapped_to(self):
    events = (
        TestStream(output_tags={'main', 'side'})
        .add_elements([TimestampedValue(3, 3), TimestampedValue(12, 12), TimestampedValue(25, 25)], tag='main')
        .advance_watermark_to(40, tag='main')
        .add_elements([TimestampedValue(101, 1)], tag='side')
        .advance_watermark_to(5, tag='side')
        .add_elements([TimestampedValue(102, 6), TimestampedValue(111, 11)], tag='side')
        .advance_watermark_to(15, tag='side')
        .add_elements([TimestampedValue(112, 16)], tag='side')
        .advance_watermark_to_infinity(tag='main')
        .advance_watermark_to_infinity(tag='side'))
    with self.streaming_pipeline() as p:
      streams = p | events
      side = streams['side'] | 'tens too' >> beam.WindowInto(Tens())
      view = beam.pvalue.AsList(side)
      view._window_mapping_fn = lambda w: IntervalWindow(w.start - 10, w.start)
      got = (
          streams['main'] | 'tens' >> beam.WindowInto(Tens())
          | beam.Map(lambda x, s: (x, sorted(s)), view))
      assert_that(got, equal_to([(3, []), (12, [101, 102]), (25, [111, 112])]))

  def test_own_merging_windows_in_panes(self):
    events = (
        TestStream(coder=coders.FastPrimitivesCoder())
        .add_elements([TimestampedValue(*e) for e in days('a', 1, 2, 9)])
        .advance_watermark_to(3)
        .add_elements([TimestampedValue(*e) for e in days('a', 3, 4)])
        .advance_watermark_to(8)
        .add_elements([TimestampedValue(*e) for e in days('a', 8, 10)])
        .advance_watermark_to_infinity())
    with self.streaming_pipeline() as p:
      got = (
          p | events
          | beam.WindowInto(Seasons()).with_output_types(tuple[str, int])
          | beam.GroupByKey()
          | beam.MapTuple(lambda k, vs, w=beam.DoFn.WindowParam: (k, sorted(vs), w.key())))
      assert_that(got, equal_to([('a', [1, 2], (1, 2)), ('a', [3, 4], (3, 4)), ('a', [8, 9, 10], (8, 10))]))

  def test_empty_panes_of_a_mean(self):
    """MeanCombineFn can't merge no accumulators at all."""
    events = (
        TestStream(coder=coders.FastPrimitivesCoder())
        .add_elements([TimestampedValue(('a', 1), 1), TimestampedValue(('b', 5), 2)])
        .add_elements([TimestampedValue(('a', 4), 3)])
        .advance_watermark_to(11)
        .add_elements([TimestampedValue(('a', 8), 4), TimestampedValue(('c', 6), 12)])
        .advance_watermark_to_infinity())
    with self.streaming_pipeline() as p:
      got = (
          p | events
          | beam.WindowInto(
              window.FixedWindows(10),
              trigger=trigger.AfterWatermark(early=trigger.AfterCount(1), late=trigger.AfterCount(1)),
              accumulation_mode=trigger.AccumulationMode.DISCARDING,
              allowed_lateness=10)
          | beam.CombinePerKey(beam.combiners.MeanCombineFn())
          | beam.MapTuple(
              lambda k, mean, w=beam.DoFn.WindowParam, t=beam.DoFn.TimestampParam, pane=beam.DoFn.PaneInfoParam:
              (k, str(mean), int(w.start), t.micros // 1000 == w.max_timestamp().micros // 1000, pane.timing, pane.index)))
      early, on_time, late = (
          windowed_value.PaneInfoTiming.EARLY, windowed_value.PaneInfoTiming.ON_TIME, windowed_value.PaneInfoTiming.LATE)
      assert_that(got, equal_to([
          ('a', '1.0', 0, True, early, 0),
          ('a', '4.0', 0, True, early, 1),
          ('a', 'nan', 0, True, on_time, 2),
          ('a', '8.0', 0, True, late, 3),
          ('a', 'nan', 0, True, late, 4),
          ('b', '5.0', 0, True, early, 0),
          ('b', 'nan', 0, True, on_time, 1),
          ('b', 'nan', 0, True, late, 2),
          ('c', '6.0', 10, True, early, 0),
          ('c', 'nan', 10, True, on_time, 1),
      ]))

  def test_side_input_in_windows_of_another_function(self):
    with self.create_pipeline() as p:
      main = p | 'main' >> at(*[(t, t) for t in (3, 12, 25)]) | beam.WindowInto(Tens())
      side = p | 'side' >> at(*[(100 + t, t) for t in (1, 9, 19, 29)]) | 'sliding' >> beam.WindowInto(window.SlidingWindows(10, 5))
      got = main | beam.Map(lambda x, s: (x, sorted(s)), beam.pvalue.AsList(side))
      # The earliest window that holds the end of the main window, 9.999, 19.999, 29.999.
      assert_that(got, equal_to([(3, [101, 109]), (12, [119]), (25, [129])]))

  def test_elements_in_no_window(self):
    """They pass through what has no windows, and grouping loses them in silence."""
    class Count(beam.DoFn):
      def process(self, element):
        Metrics.counter('windows', 'seen').inc()
        yield element

    p = self.create_pipeline()
    all_ = (
        p | at(*[(t, t) for t in range(20)])
        | beam.WindowInto(window.SlidingWindows(size=2, period=5))
        | beam.ParDo(Count()))
    groups = all_ | beam.Map(lambda x: (0, x)) | beam.GroupByKey() | beam.MapTuple(lambda _, vs: sorted(vs))
    assert_that(groups, equal_to([[0, 1], [5, 6], [10, 11], [15, 16]]))
    spread = all_ | beam.Reshuffle() | 'spread' >> beam.Map(lambda x: (0, x)) | beam.CombinePerKey(sum) | beam.Values()
    assert_that(spread, equal_to([1, 11, 21, 31]), 'spread')
    result = p.run()
    result.wait_until_finish()
    counter = result.metrics().query(MetricsFilter().with_name('seen'))['counters'][0]
    self.assertEqual(counter.committed, 20)

  def test_elements_in_no_window_of_a_stateful_dofn(self):
    class Number(beam.DoFn):
      SEEN = beam.transforms.userstate.CombiningValueStateSpec('seen', sum)

      def process(self, kv, seen=beam.DoFn.StateParam(SEEN)):
        seen.add(1)
        yield seen.read()

    with self.create_pipeline() as p:
      got = (
          p | at(*[((0, t), t) for t in range(10)])
          | beam.WindowInto(window.SlidingWindows(size=2, period=5))
          | beam.ParDo(Number()))
      assert_that(got, equal_to([1, 2, 1, 2]))

  def test_the_ends_of_time(self):
    # Encoded timestamps are of milliseconds.
    first, last = MIN_TIMESTAMP, MAX_TIMESTAMP
    elements = [('first', first), ('second', first + 0.001), ('zero', Timestamp(0)), ('last but a day', last - 86400), ('last', last)]
    for name, fn in {
        'fixed': window.FixedWindows(60), 'global': window.GlobalWindows(), 'sessions': window.Sessions(60)
    }.items():
      with self.create_pipeline() as p:
        got = (
            p | at(*[((0, v), t) for v, t in elements])
            | beam.WindowInto(fn)
            | beam.GroupByKey()
            | beam.MapTuple(lambda _, vs: sorted(vs)))
        want = [['first', 'second'], ['zero'], ['last but a day'], ['last']]
        if name == 'global':
          want = [sorted(v for v, _ in elements)]
        assert_that(got, equal_to(want))
