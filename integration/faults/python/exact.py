"""The pipeline of ../pipelines/exact.go in Python: adds up an unbounded input that ends, in user state with timers of
both kinds, in groups and in accumulators, and fails if a total is missing, wrong or there twice. What its totals were,
again after each failure, is added to a file. It is left running when it has been submitted."""
import argparse
import collections
import logging
import os
import time

import apache_beam as beam
from apache_beam.coders import FastPrimitivesCoder, VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import trigger, userstate, window
from apache_beam.transforms.periodicsequence import PeriodicSequence

WINDOW = 500  # ms

# A total is a tuple: the branch of the pipeline, the key, the window's last ms, count, sum and xor.


class Oracle:
  """Knows the totals: each shard has n elements, one every so many ms from start on, which go to the keys in turn."""
  def __init__(self, start, every, n, shards, keys):
    self.start, self.every, self.n, self.shards, self.keys = start, every, n, shards, keys

  def id(self, shard, at):
    """The id of the element of a shard at a moment, in s."""
    return shard * self.n + round((float(at) * 1000 - self.start) / self.every)

  def want(self):
    ids = collections.defaultdict(list)
    for i in range(self.shards * self.n):
      at = self.start + i % self.n * self.every
      ids[i % self.keys, at - at % WINDOW + WINDOW - 1].append(i)
    for (key, end), some in ids.items():
      yield ('state', key, end, *sums_of(some))
      yield ('group', key, end, *sums_of(some))
      yield ('combine', key, end, 0, sum(some), 0)


def mix(i):
  """Scatters the bits of a number."""
  x = i + 0x9e3779b97f4a7c15
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9 % 2**64
  x = (x ^ x >> 27) * 0x94d049bb133111eb % 2**64
  return x ^ x >> 31


def sums_of(ids, count=0, total=0, xor=0):
  for i in ids:
    count, total, xor = count + 1, total + i, xor ^ mix(i)
  return count, total, xor


def end_of(w):
  return w.max_timestamp().micros // 1000


class Tally(beam.DoFn):
  """Keeps ids in a bag for 50 ms, then adds them up, and gives the sums at the end of the window."""
  BAG = userstate.BagStateSpec('bag', VarIntCoder())
  SUMS = userstate.ReadModifyWriteStateSpec('sums', FastPrimitivesCoder())
  WAITS = userstate.ReadModifyWriteStateSpec('waits', FastPrimitivesCoder())
  SOON = userstate.TimerSpec('soon', userstate.TimeDomain.REAL_TIME)
  END = userstate.TimerSpec('end', userstate.TimeDomain.WATERMARK)

  def process(
      self, element, w=beam.DoFn.WindowParam, bag=beam.DoFn.StateParam(BAG), waits=beam.DoFn.StateParam(WAITS),
      soon=beam.DoFn.TimerParam(SOON), end=beam.DoFn.TimerParam(END)):
    bag.add(element[1])
    end.set(w.max_timestamp())
    if not waits.read():
      waits.write(True)
      soon.set(time.time() + 0.05)

  def move(self, bag, sums):
    sums.write(sums_of(bag.read(), *sums.read() or ()))
    bag.clear()

  @userstate.on_timer(SOON)
  def collect(self, bag=beam.DoFn.StateParam(BAG), sums=beam.DoFn.StateParam(SUMS), waits=beam.DoFn.StateParam(WAITS)):
    self.move(bag, sums)
    waits.clear()

  @userstate.on_timer(END)
  def tell(
      self, key=beam.DoFn.KeyParam, w=beam.DoFn.WindowParam, bag=beam.DoFn.StateParam(BAG),
      sums=beam.DoFn.StateParam(SUMS), soon=beam.DoFn.TimerParam(SOON)):
    self.move(bag, sums)
    soon.clear()
    yield ('state', key, end_of(w), *sums.read())
    sums.clear()


class Observe(beam.DoFn):
  """Notes each total in a file, at once and before anything is durable."""
  def __init__(self, path):
    self.path = path

  def setup(self):
    self.out = open(self.path, 'a', buffering=1)

  def process(self, total):
    self.out.write('%s %d %d %d %d %d\n' % total)
    yield total

  def teardown(self):
    self.out.close()


def verify(totals, oracle):
  """Compares all totals with those of the oracle."""
  want, got = collections.Counter(oracle.want()), collections.Counter(totals)
  assert got == want, f'wrong or double: {list((got - want).items())[:3]}, missing: {list((want - got).items())[:3]}'


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--n', type=int, default=100, help='elements of a shard')
  parser.add_argument('--every', type=int, default=50, help='ms from one to the next')
  parser.add_argument('--shards', type=int, default=2)
  parser.add_argument('--keys', type=int, default=10)
  parser.add_argument('--observed', default=os.devnull)
  flags, options = parser.parse_known_args()
  start = int(time.time() * 1000) // WINDOW * WINDOW + flags.every // 2  # no element is at the end of a window
  oracle = Oracle(start, flags.every, flags.n, flags.shards, flags.keys)
  key = lambda shard: lambda at: (oracle.id(shard, at) % oracle.keys, oracle.id(shard, at))
  p = beam.Pipeline(options=PipelineOptions(options))
  ids = [
      p
      | f'times {shard}' >> beam.Create([(oracle.start / 1000, (oracle.start + oracle.n * oracle.every) / 1000, oracle.every / 1000)])
      | f'shard {shard}' >> PeriodicSequence()
      | f'ids {shard}' >> beam.Map(key(shard)).with_output_types(tuple[int, int]) for shard in range(oracle.shards)
  ] | beam.Flatten() | beam.WindowInto(window.FixedWindows(WINDOW / 1000))
  totals = [
      ids | 'state' >> beam.ParDo(Tally()),
      ids | 'group' >> beam.GroupByKey()
      | beam.Map(lambda kv, w=beam.DoFn.WindowParam: ('group', kv[0], end_of(w), *sums_of(kv[1]))),
      ids | 'combine' >> beam.CombinePerKey(sum)
      | beam.Map(lambda kv, w=beam.DoFn.WindowParam: ('combine', kv[0], end_of(w), 0, kv[1], 0)),
  ] | 'totals' >> beam.Flatten()
  _ = (
      totals | beam.ParDo(Observe(flags.observed)) | 'together' >> beam.WindowInto(
          window.GlobalWindows(), trigger=trigger.AfterWatermark(), accumulation_mode=trigger.AccumulationMode.DISCARDING)
      | beam.WithKeys(0) | 'all' >> beam.GroupByKey() | beam.Map(lambda kv: verify(kv[1], oracle)))
  p.run()


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.WARNING)
  main()
