"""Adds up ones by two keys in panes that accumulate.

  python sums.py --elements 4000 ...

It prints "KEY SUM" of each pane, and "merges N" of each time that accumulators are merged. Then, of
panes that discard, it prints "mean MEAN" of a window that fires early and once more, empty, on time.
"""
import argparse

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, AfterWatermark, Repeatedly
from apache_beam.transforms.window import FixedWindows, GlobalWindows


def tell(what, value):
  print('%s %s\n' % (what, value), end='', flush=True)  # at once: bundles run side by side


class Sum(beam.CombineFn):
  """A sum that tells how many accumulators it merges."""
  def create_accumulator(self):
    return 0

  def add_input(self, accumulator, element):
    return accumulator + element

  def merge_accumulators(self, accumulators):
    accumulators = list(accumulators)
    tell('merges', len(accumulators))
    return sum(accumulators)

  def extract_output(self, accumulator):
    return accumulator


class Mean(beam.CombineFn):
  """A mean that can't merge nothing, as Beam's own can't."""
  def create_accumulator(self):
    return 0, 0

  def add_input(self, accumulator, element):
    return accumulator[0] + element, accumulator[1] + 1

  def merge_accumulators(self, accumulators):
    sums, counts = zip(*accumulators)
    return sum(sums), sum(counts)

  def extract_output(self, accumulator):
    return accumulator[0] / accumulator[1] if accumulator[1] else 'of nothing'


def pipeline(options):
  options = PipelineOptions(options)
  options.view_as(StandardOptions).streaming = True
  return beam.Pipeline(options=options)


def sums(elements, options):
  batch = 1000
  events = TestStream()
  for first in range(0, elements, batch):
    events.add_elements([('ab'[i % 2], 1) for i in range(first, min(first + batch, elements))])
  with pipeline(options) as p:
    _ = (
        p
        | events.advance_watermark_to_infinity()
        | beam.Map(lambda kv: kv).with_output_types(tuple[str, int])
        | beam.WindowInto(GlobalWindows(), trigger=Repeatedly(AfterCount(2)), accumulation_mode=AccumulationMode.ACCUMULATING)
        | beam.CombinePerKey(Sum())
        | 'show' >> beam.MapTuple(lambda key, value: tell(key, value)))


def means(options):
  events = TestStream().add_elements([('k', 1), ('k', 2)]).advance_watermark_to(20)
  with pipeline(options) as p:
    _ = (
        p
        | events.advance_watermark_to_infinity()
        | beam.Map(lambda kv: kv).with_output_types(tuple[str, int])
        | beam.WindowInto(FixedWindows(10), trigger=AfterWatermark(early=AfterCount(2)), accumulation_mode=AccumulationMode.DISCARDING)
        | beam.CombinePerKey(Mean())
        | beam.MapTuple(lambda key, mean: tell('mean', mean)))


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--elements', type=int, required=True)
  args, rest = parser.parse_known_args()
  sums(args.elements, rest)
  means(rest)


if __name__ == '__main__':
  main()
