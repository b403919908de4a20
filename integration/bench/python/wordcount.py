"""Word count through the Python SDK, its workers started by the runner (PROCESS).

Prints one line of JSON, as the Go program of ../pipelines does:

  wordcount.py --pipeline=python-wordcount --mb=5 --data=FOLDER --endpoint=HOST:PORT --worker=COMMAND
"""
import argparse
import collections
import glob
import json
import os
import resource
import tempfile
import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

WORKERS = 2


def run(endpoint, worker, text, out):
  options = PipelineOptions([
      '--runner=PortableRunner',
      '--job_endpoint=' + endpoint,
      '--environment_type=PROCESS',
      '--environment_option=process_command=' + worker,
      '--sdk_worker_parallelism=%d' % WORKERS,
  ])
  with beam.Pipeline(options=options) as p:
    (
        p
        | beam.io.ReadFromText(text)
        | beam.FlatMap(str.split)
        | beam.Map(lambda word: (word, 1))
        | beam.CombinePerKey(sum)
        | beam.MapTuple(lambda word, n: '%s %d' % (word, n))
        | beam.io.WriteToText(out))


def plain(text):
  counts = collections.Counter()
  with open(text) as f:
    for line in f:
      counts.update(line.split())
  return counts


def written(out):
  counts = {}
  for path in glob.glob(out + '-*'):
    with open(path) as f:
      for line in f:
        word, n = line.split()
        counts[word] = counts.get(word, 0) + int(n)
  return counts


def cpu():
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  for flag in ('pipeline', 'mb', 'data', 'endpoint', 'worker'):
    parser.add_argument('--' + flag, required=flag != 'mb', default='5')
  args = parser.parse_args()
  text = os.path.join(args.data, 'text-%g.txt' % float(args.mb))
  want = plain(text)
  n = sum(want.values())
  result = {'pipeline': args.pipeline, 'n': n, 'ok': True}
  with tempfile.TemporaryDirectory(prefix='wordcount') as folder:
    out = os.path.join(folder, 'counts')
    started, used = time.time(), cpu()
    try:
      run(args.endpoint, args.worker, text, out)
    except Exception as e:  # pylint: disable=broad-except
      result.update(ok=False, error=str(e)[-600:])
    seconds = time.time() - started
    result.update(
        seconds=round(seconds, 3), elements_per_s=round(n / seconds), sdk_cpu_s=round(cpu() - used, 3))
    got = written(out)
    result['out'] = len(got)
    if result['ok'] and got != want:
      result.update(ok=False, error='wrong answer: %d words of %d, %d in all of %d' % (
          len(got), len(want), sum(got.values()), n))
  print(json.dumps(result))
  raise SystemExit(not result['ok'])


if __name__ == '__main__':
  main()
