"""KafkaIO, which is Java's, in Python's pipelines, and a broker of Kafka's own."""
import os
import subprocess
import time
import typing

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.io.kafka import ReadFromKafkaSchema
from apache_beam.io.kafka import WriteToKafka
from apache_beam.runners.runner import PipelineState
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms.external import NamedTupleBasedPayloadBuilder
from apache_beam.typehints import KV

# What the Java SDK of pom.xml knows of the fields of Python's ReadFromKafka, which is newer.
FIELDS = {
    name: kind for name, kind in typing.get_type_hints(ReadFromKafkaSchema).items()
    if not name.startswith('consumer_factory_')}
ReadSchema = typing.NamedTuple('ReadSchema', FIELDS.items())


def read(kafka, java, topic, group, **more):
  """As ReadFromKafka does it."""
  fields = dict.fromkeys(FIELDS)
  fields.update(
      consumer_config={
          'bootstrap.servers': kafka.address, 'auto.offset.reset': 'earliest', 'group.id': group,
          # Unless it is told not to, Java's consumer commits what it has polled, whatever becomes of it.
          'enable.auto.commit': 'false'},
      topics=[topic],
      key_deserializer=ReadFromKafka.byte_array_deserializer,
      value_deserializer=ReadFromKafka.byte_array_deserializer,
      commit_offset_in_finalize=False,
      timestamp_policy=ReadFromKafka.processing_time_policy,
      consumer_polling_timeout=2,
      redistribute=False,
      redistribute_num_keys=np.int32(0),
      allow_duplicates=False)
  fields.update(more)
  return beam.ExternalTransform(
      ReadFromKafka.URN_WITHOUT_METADATA, NamedTupleBasedPayloadBuilder(ReadSchema(**fields)), java)


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
    got = p | read(kafka, java, 'bounded', 'some', max_num_records=300)
    assert_that(got, equal_to(encoded(records(0, 300))))


def exclaim(kafka, java, source, sink, group, options):
  """Starts a job that appends to the values of what comes, and puts it elsewhere."""
  p = beam.Pipeline(options=options('--streaming'))
  _ = (
      p
      | read(kafka, java, source, group, commit_offset_in_finalize=True)
      | beam.MapTuple(lambda k, v: (k, v + b'!')).with_output_types(KV[bytes, bytes])
      | WriteToKafka({'bootstrap.servers': kafka.address}, sink, expansion_service=java))
  return p.run()


@pytest.mark.parametrize('end', ['cancel', 'drain'])
def test_read_on(end, kafka, java, endpoint, options):
  """Reads until it is cancelled or drained."""
  source, sink = 'source-' + end, 'sink-' + end
  kafka.create_topic(source)
  kafka.create_topic(sink)

  def expect(n):
    assert sorted(kafka.read(sink, n)) == sorted((k, v + '!') for k, v in records(0, n))

  kafka.send(source, records(0, 100))
  result = exclaim(kafka, java, source, sink, end, options)
  try:
    expect(100)
    kafka.send(source, records(100, 150))  # what comes while it runs
    expect(150)
    if end == 'drain':
      subprocess.run([os.environ['LINTEL'], 'jobs', 'drain', '--endpoint', endpoint, result._job_id], check=True)
      until(lambda: PipelineState.is_terminal(result.state))
      assert result.state == PipelineState.DRAINED, result.state
      # It commits when windows of five minutes end, which all have.
      assert sum(kafka.committed(end).values()) == 150
      # Another job goes on where this one ended.
      kafka.send(source, records(150, 160))
      result = exclaim(kafka, java, source, sink, end, options)
      expect(160)
  finally:
    if not PipelineState.is_terminal(result.state):
      result.cancel()
  until(lambda: PipelineState.is_terminal(result.state))
