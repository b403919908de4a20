"""KafkaIO, which is Java's, in Python's pipelines, and a broker of Kafka's own."""
import os
import subprocess
import time

import apache_beam as beam
import pytest
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.io.kafka import WriteToKafka
from apache_beam.runners.runner import PipelineState
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.typehints import KV

LONG = 'org.apache.kafka.common.serialization.LongSerializer'


def consumer(kafka, group):
  return {'bootstrap.servers': kafka.address, 'auto.offset.reset': 'earliest', 'group.id': group}


def until(holds, seconds=120):
  deadline = time.monotonic() + seconds
  while not holds():
    assert time.monotonic() < deadline, 'nothing came of it'
    time.sleep(0.5)


def records(first, last):
  return [('k%d' % (i % 7), 'v%d' % i) for i in range(first, last)]


def encoded(pairs):
  return [(k.encode(), v.encode()) for k, v in pairs]


def test_write(kafka, java, options):
  kafka.create_topic('written')
  with beam.Pipeline(options=options()) as p:
    _ = (
        p
        | beam.Create(encoded(records(0, 500)))
        | beam.Map(lambda kv: kv).with_output_types(KV[bytes, bytes])
        | WriteToKafka({'bootstrap.servers': kafka.address}, 'written', expansion_service=java))
  assert sorted(kafka.read('written', 500)) == sorted(records(0, 500))


def test_read_some(kafka, java, options):
  kafka.create_topic('bounded')
  kafka.send('bounded', records(0, 300))
  with beam.Pipeline(options=options()) as p:
    got = p | ReadFromKafka(
        consumer(kafka, 'some'), ['bounded'], max_num_records=300, expansion_service=java)
    assert_that(got, equal_to(encoded(records(0, 300))))


@pytest.mark.parametrize('end', ['cancel', 'drain'])
def test_read_on(end, kafka, java, endpoint, options):
  """Reads until it is cancelled or drained; what a bundle has read is committed when it is final."""
  source, sink = 'source-' + end, 'sink-' + end
  kafka.create_topic(source)
  kafka.create_topic(sink)
  kafka.send(source, records(0, 100))
  p = beam.Pipeline(options=options('--streaming'))
  _ = (
      p
      | ReadFromKafka(
          consumer(kafka, end), [source], commit_offset_in_finalize=True, expansion_service=java)
      | beam.MapTuple(lambda k, v: (k, v + b'!')).with_output_types(KV[bytes, bytes])
      | WriteToKafka({'bootstrap.servers': kafka.address}, sink, expansion_service=java))
  result = p.run()
  try:
    want = [(k, v + '!') for k, v in records(0, 100)]
    assert sorted(kafka.read(sink, 100)) == sorted(want)
    kafka.send(source, records(100, 150))  # what comes while it runs
    want += [(k, v + '!') for k, v in records(100, 150)]
    assert sorted(kafka.read(sink, 150)) == sorted(want)
    until(lambda: kafka.committed(end) == 150)
    if end == 'drain':
      subprocess.run([os.environ['LINTEL'], 'jobs', 'drain', '--endpoint', endpoint, result._job_id], check=True)
      until(lambda: PipelineState.is_terminal(result.state))
      assert result.state == PipelineState.DRAINED, result.state
  finally:
    if not PipelineState.is_terminal(result.state):
      result.cancel()
  until(lambda: PipelineState.is_terminal(result.state))
