"""Writes lines 0 to LINES-1 to files, a thousand a bundle or so, and batches of them.

  python files.py --folder DIR --lines 5000 [--shards 3] ...

FOLDER/lines* has each line; FOLDER/batches* how many of which there are in a batch of ten.
"""
import argparse
import os

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--folder', required=True)
  parser.add_argument('--lines', type=int, required=True)
  parser.add_argument('--shards', type=int, default=0)
  args, rest = parser.parse_known_args()
  count = args.lines // 8
  with beam.Pipeline(options=PipelineOptions(rest)) as p:
    lines = (
        p
        | beam.Create(range(8))
        | 'spread' >> beam.Reshuffle()
        | beam.FlatMap(lambda i: range(i * count, (i + 1) * count)).with_output_types(int))
    _ = (
        lines
        | beam.Map(str)
        | 'again' >> beam.Reshuffle()
        | 'lines' >> beam.io.WriteToText(os.path.join(args.folder, 'lines'), num_shards=args.shards))
    _ = (
        lines
        | beam.Map(lambda i: (i % 7, i)).with_output_types(tuple[int, int])
        | beam.GroupIntoBatches(10)
        | beam.MapTuple(lambda key, batch: '%d %s' % (key, ' '.join(map(str, batch))))
        | 'batches' >> beam.io.WriteToText(os.path.join(args.folder, 'batches'), num_shards=1))


if __name__ == '__main__':
  main()
