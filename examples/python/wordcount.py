"""Counts the words of a file, or of all files of a folder.

  python wordcount.py --input DIR --ext .go --top 20 --output counts.txt \
      --runner PortableRunner --job_endpoint 127.0.0.1:8099 \
      --environment_type LOOPBACK

The pipeline writes the most frequent words to --output, one "count<TAB>word" a
line; the program then prints that file and how fast the words were counted.
"""
import argparse
import os
import re
import sys
import tempfile
import time

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

WORD = re.compile(r'[^\W\d]\w*')


class ListFiles(beam.DoFn):
  """Turns a folder into the files below it, and a file into itself."""
  def __init__(self, ext):
    self.ext = ext

  def process(self, root):
    if os.path.isfile(root):
      yield root
    for folder, _, names in os.walk(root):
      for name in names:
        path = os.path.join(folder, name)
        if name.endswith(self.ext) and os.path.isfile(path):
          yield path


class ReadLines(beam.DoFn):
  """Emits a file's lines."""
  def process(self, path):
    with open(path, encoding='utf-8', errors='replace') as f:
      yield from f


class SplitWords(beam.DoFn):
  """Emits each word of a line; its counters show the progress."""
  def __init__(self):
    self.lines = Metrics.counter('wordcount', 'lines')
    self.words = Metrics.counter('wordcount', 'words')

  def process(self, line):
    found = WORD.findall(line)
    self.lines.inc()
    self.words.inc(len(found))
    return found


def format_counts(counts):
  return ['%d\t%s' % (count, word) for word, count in counts]


def by_count(pair):
  word, count = pair
  return count, word


def build(pipeline, args):
  return (
      pipeline
      | 'Input' >> beam.Create([os.path.abspath(args.input)])
      | 'ListFiles' >> beam.ParDo(ListFiles(args.ext))
      | 'Spread' >> beam.Reshuffle()
      | 'ReadLines' >> beam.ParDo(ReadLines())
      | 'SplitWords' >> beam.ParDo(SplitWords())
      | 'Count' >> beam.combiners.Count.PerElement()
      | 'Top' >> beam.combiners.Top.Of(args.top, key=by_count)
      | 'Format' >> beam.FlatMap(format_counts)
      | 'Write' >> beam.io.WriteToText(
          os.path.abspath(args.output), shard_name_template=''))


def counter(result, name):
  found = result.metrics().query(MetricsFilter().with_name(name))['counters']
  return sum(c.result for c in found)


def main(argv):
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--input', required=True, help='file or folder to read')
  parser.add_argument(
      '--ext', default='', help='of a folder, only files with this ending')
  parser.add_argument('--top', type=int, default=20)
  parser.add_argument('--output', help='default: a temporary file')
  args, beam_args = parser.parse_known_args(argv)
  if not os.path.exists(args.input):
    parser.error('--input: no such file or folder: ' + args.input)
  with tempfile.TemporaryDirectory() as scratch:
    args.output = args.output or os.path.join(scratch, 'counts.txt')
    pipeline = beam.Pipeline(options=PipelineOptions(beam_args))
    build(pipeline, args)
    start = time.time()
    result = pipeline.run()
    result.wait_until_finish()
    seconds = time.time() - start
    with open(args.output, encoding='utf-8') as f:
      sys.stdout.write(f.read())
  words = counter(result, 'words')
  print('%d words in %d lines in %.1f s: %d words/s' % (
      words, counter(result, 'lines'), seconds, words / seconds))


if __name__ == '__main__':
  main(sys.argv[1:])
