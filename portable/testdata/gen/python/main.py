"""Writes the Python pipelines of the golden plans as Beam sends them over the
Job API: main.py OUTPUT_FOLDER, in a virtual environment with apache_beam."""

import os
import sys

import apache_beam as beam
from apache_beam.io import restriction_trackers
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import (
    PipelineResult, PipelineRunner, PipelineState)
from apache_beam.transforms import trigger, userstate, window

OPTIONS = [
    '--environment_type=EXTERNAL', '--environment_config=localhost:1234',
    '--experiments=beam_fn_api'
]


class Write(PipelineRunner):
  """A runner that writes the pipeline to a file."""
  def __init__(self, path):
    self.path = path

  def run_pipeline(self, pipeline, options):
    proto = PortableRunner.get_proto_pipeline(pipeline, options)
    for t in proto.components.transforms.values():
      del t.display_data[:]
    for env in proto.components.environments.values():
      del env.dependencies[:]  # differ between machines
    with open(self.path, 'wb') as f:
      f.write(proto.SerializeToString(deterministic=True))
    return PipelineResult(PipelineState.DONE)


class RangeProvider(beam.transforms.core.RestrictionProvider):
  def initial_restriction(self, n):
    return restriction_trackers.OffsetRange(0, n)

  def create_tracker(self, r):
    return restriction_trackers.OffsetRestrictionTracker(r)

  def restriction_size(self, n, r):
    return r.size()

  def split(self, n, r):
    return r.split(10, 1)


class Reader(beam.DoFn):
  def process(
      self, n, tracker=beam.DoFn.RestrictionParam(RangeProvider())):
    i = tracker.current_restriction().start
    while tracker.try_claim(i):
      yield i
      i += 1


class OwnWindows(window.NonMergingWindowFn):
  def assign(self, context):
    return [Own(context.timestamp)]

  def get_window_coder(self):
    return OwnCoder()


class OwnCoder(beam.coders.Coder):
  def encode(self, w):
    return str(w.end.micros).encode()

  def decode(self, encoded):
    return Own(beam.utils.timestamp.Timestamp(micros=int(encoded)))

  def is_deterministic(self):
    return True


class Own(window.BoundedWindow):
  def __init__(self, end):
    super().__init__(end)


class Batch(beam.DoFn):
  SEEN = userstate.BagStateSpec('seen', beam.coders.VarIntCoder())
  TOTAL = userstate.CombiningValueStateSpec('total', sum)
  LAST = userstate.ReadModifyWriteStateSpec('last', OwnCoder())
  STALE = userstate.TimerSpec('stale', userstate.TimeDomain.REAL_TIME)
  FULL = userstate.TimerSpec('full', userstate.TimeDomain.WATERMARK)

  def process(
      self,
      kv,
      seen=beam.DoFn.StateParam(SEEN),
      total=beam.DoFn.StateParam(TOTAL),
      full=beam.DoFn.TimerParam(FULL),
      stale=beam.DoFn.TimerParam(STALE)):
    seen.add(kv[1])
    full.set(kv[1])

  @userstate.on_timer(FULL)
  def on_full(self, seen=beam.DoFn.StateParam(SEEN)):
    yield sum(seen.read())

  @userstate.on_timer(STALE)
  def on_stale(self, last=beam.DoFn.StateParam(LAST)):
    last.clear()


def wordcount(p):
  (
      p | beam.Create(['a b', 'b c'])
      | beam.FlatMap(str.split)
      | beam.combiners.Count.PerElement()
      | beam.Map(lambda kv: '%s: %d' % kv)
      | beam.Map(print))


def read_text(p):
  (
      p | beam.io.ReadFromText('/etc/hosts')
      | beam.FlatMap(str.split)
      | beam.Map(lambda w: (w, 1))
      | beam.CombinePerKey(sum)
      | beam.MapTuple('{} {}'.format)
      | beam.io.WriteToText('/tmp/out'))


def cogroup(p):
  a = p | 'a' >> beam.Create([('k', 1)])
  b = p | 'b' >> beam.Create([('k', 'x')])
  {'a': a, 'b': b} | beam.CoGroupByKey() | beam.Map(print)


def flatten(p):
  a = p | 'a' >> beam.Create([1, 2])
  b = p | 'b' >> beam.Create(['x'])
  both = (a, b, a) | beam.Flatten()
  both | 'one' >> beam.Map(print)
  both | beam.GroupBy(lambda x: x) | 'two' >> beam.Map(print)
  () | 'none' >> beam.Flatten(pipeline=p) | 'three' >> beam.Map(print)


def side_inputs(p):
  main = p | beam.Create([1, 2, 3])
  double = main | beam.Map(lambda x: 2 * x)
  table = p | 'table' >> beam.Create([(1, 'a')])
  main | 'list' >> beam.Map(lambda x, l: (x, l), beam.pvalue.AsList(double))
  main | 'dict' >> beam.Map(lambda x, d: d.get(x), beam.pvalue.AsDict(table))
  (
      main | 'both' >> beam.Map(
          lambda x, l, m: (x, len(list(l)), list(m[1])),
          beam.pvalue.AsIter(main),
          beam.pvalue.AsMultiMap(table)))
  joined = double | 'chain' >> beam.Map(
      lambda x, n: x + n,
      beam.pvalue.AsSingleton(main | beam.combiners.Count.Globally()))
  main | 'again' >> beam.Map(lambda x, l: x, beam.pvalue.AsList(joined))


def windows(p):
  timed = (
      p | beam.Create([1, 2, 3])
      | beam.Map(lambda x: window.TimestampedValue(('k', x), x)))
  timed | 'fixed' >> beam.WindowInto(
      window.FixedWindows(10)) | 'g1' >> beam.GroupByKey()
  (
      timed | 'sliding' >> beam.WindowInto(window.SlidingWindows(10, 5))
      | 'sum' >> beam.CombinePerKey(sum))
  timed | 'sessions' >> beam.WindowInto(
      window.Sessions(10)) | 'g3' >> beam.GroupByKey()
  timed | 'own' >> beam.WindowInto(OwnWindows()) | 'g4' >> beam.GroupByKey()


def sdf(p):
  p | beam.Create([10, 20]) | beam.ParDo(Reader()) | beam.Map(print)


def combine_globally(p):
  p | beam.Create([1, 2]) | beam.CombineGlobally(sum) | beam.Map(print)


def reshuffle(p):
  (
      p | beam.Create([1, 2], reshuffle=False) | beam.Reshuffle()
      | beam.Map(lambda x: (x, x)) | 'keyed' >> beam.Reshuffle()
      | beam.Map(print))


def multi_output(p):
  def split(x):
    yield x
    yield beam.pvalue.TaggedOutput('odd', str(x))

  outs = (
      p | beam.Create([1, 2])
      | beam.FlatMap(split).with_outputs('odd', main='all'))
  outs.odd | 'odd' >> beam.Map(print)
  outs.all | beam.Reshuffle() | 'all' >> beam.Map(print)


def stateful(p):
  kvs = (
      p | beam.Create([('a', 1), ('b', 2)])
      | beam.WindowInto(window.FixedWindows(10)))
  batches = kvs | beam.ParDo(Batch())
  batches | beam.Map(print)
  kvs | 'sibling' >> beam.Map(print)


PIPELINES = [
    wordcount, read_text, cogroup, flatten, side_inputs, windows, sdf,
    combine_globally, reshuffle, multi_output, stateful
]


def main(folder):
  for make in PIPELINES:
    path = os.path.join(folder, 'python_%s.pb' % make.__name__)
    with beam.Pipeline(Write(path), PipelineOptions(OPTIONS)) as p:
      make(p)


if __name__ == '__main__':
  main(sys.argv[1])
