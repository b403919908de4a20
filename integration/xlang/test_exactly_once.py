"""From Kafka to Kafka through a stateful function, while the server or the broker is killed."""
import collections
import contextlib
import os
import random
import threading
import time

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.io.kafka import WriteToKafka
from apache_beam.transforms.external import ImplicitSchemaPayloadBuilder
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.typehints import KV

import services
from test_kafka import read
from test_kafka import until

KEYS = 7
SHARDS = 3
AHEAD = 200

# A slow machine's: each wait has a limit of its own.
pytestmark = pytest.mark.timeout(1800)


class Number(beam.DoFn):
  """Appends to each value its number among those of its key."""
  COUNT = ReadModifyWriteStateSpec('count', VarIntCoder())

  def process(self, element, count=beam.DoFn.StateParam(COUNT)):
    key, value = element
    n = (count.read() or 0) + 1
    count.write(n)
    yield key, b'%s %d' % (value, n)


class Source(threading.Thread):
  """Sends records with the numbers from 0 on until it is ended, some more than have come out."""
  def __init__(self, send, got):
    super().__init__(daemon=True)
    self.send, self.got, self.sent, self.ended = send, got, 0, threading.Event()

  def record(self):
    self.send('k%d' % (self.sent % KEYS), str(self.sent))
    self.sent += 1

  def run(self):
    while not self.ended.wait(0.005):
      if self.sent < len(self.got) + AHEAD:
        self.record()

  def end(self):
    self.ended.set()
    self.join()


class Case:
  """Two topics, a server, and jobs that read from one of them and write to the other."""
  def __init__(self, name, kafka, java, folder, options):
    self.name, self.kafka, self.java, self.folder, self.options = name, kafka, java, folder, options
    self.source, self.sink = name + '-source', name + '-sink'
    self.observed = '%s/%s-observed' % (folder, name)
    self.seed = random.randrange(1 << 32)
    self.random = random.Random(self.seed)

  @contextlib.contextmanager
  def running(self):
    """Yields what comes out, and what sends what goes in."""
    print('seed', self.seed)
    self.kafka.create_topic(self.source)
    self.kafka.create_topic(self.sink)
    self.server = services.Server('%s/lintel-%s' % (self.folder, self.name))
    try:
      with self.kafka.producing(self.source) as send, self.kafka.following(self.sink) as got:
        source = Source(send, got)
        try:
          yield got, source
        finally:
          source.ended.set()
    finally:
      self.server.close()

  def new_server(self):
    """Goes on with a server that knows nothing of the one before."""
    self.server = services.Server('%s/lintel-%s-new' % (self.folder, self.name))

  def external(self, urn, **payload):
    return beam.ExternalTransform(
        'lintel:kafka:' + urn, ImplicitSchemaPayloadBuilder({'servers': self.kafka.address, **payload}), self.java)

  def read(self):
    """Reads with bundle finalisation, and notes what it has read."""
    return self.external('read_finalised:v1', topic=self.source, group=self.source, observed=self.observed)

  def write_once(self, timeout_ms=60000):
    return self.external(
        'write_exactly_once:v1', topic=self.sink, group=self.sink, shards=SHARDS, timeout=timeout_ms)

  def start(self, *transforms):
    """Starts a job of these transforms, one after the other."""
    p = beam.Pipeline(options=self.options(
        '--streaming', '--checkpoint_interval=500ms', '--restart_attempts=-1', endpoint=self.server.jobs))
    out = p
    for i, t in enumerate(transforms):
      out = out | str(i) >> t
    self.job = p.run()._job_id

  def state(self):
    return self.server.get('/v1/jobs/' + self.job)['state']

  def checkpoint(self):
    """Waits for a checkpoint that began after this moment."""
    def newest():
      all = self.server.get('/v1/jobs/%s/checkpoints' % self.job)['checkpoints']
      return max((c['epoch'] for c in all if c['state'] == 'complete'), default=0)

    last = newest()
    until(lambda: newest() > last + 2)

  def warm_up(self, got, source):
    """Until a checkpoint has the id of each shard's writer Beam's sink can't go on: it says so, and fails."""
    for _ in range(20 * SHARDS):
      source.record()
    until(lambda: len(got) == source.sent, 300)
    self.checkpoint()

  def kill_servers(self, times, got, source):
    """Kills the server at random, and looks at what is read again."""
    for i in range(times):
      time.sleep(self.random.uniform(0.5, 4))
      self.server.kill()
      killed, had = time.time(), len(got)
      committed = self.kafka.committed(self.source)
      # The functions' processes outlive the server here, and Beam's sink has no second writer of a shard in one: bundles of before
      # have to be over.
      time.sleep(1)
      self.server.start()
      if i % 3 == 1:
        continue  # it is killed while it recovers
      until(lambda: len(got) > had + AHEAD // 4, 300)
      # What was committed was in a checkpoint, as it isn't read again.
      for partition, offset in self.read_since(killed).items():
        assert offset >= committed.get(partition, 0), (partition, offset, committed)
      print('%d records, the next after %.1f s' % (had, time.time() - killed))

  def read_since(self, moment):
    """Returns the least offset that functions have read that came to be since a moment, by partition."""
    least = {}
    if os.path.exists(self.observed):
      with open(self.observed) as f:
        for line in f:
          born, partition, offset = map(int, line.split())
          if born > moment * 1000:
            least[partition] = min(offset, least.get(partition, offset))
    return least


def all_or_quiet(got, n):
  """Waits until n records have come, or none for long: what is missing then is lost."""
  had, since = len(got), time.monotonic()
  while len(got) < n and time.monotonic() - since < 90:
    time.sleep(0.1)
    if len(got) > had:
      had, since = len(got), time.monotonic()


def exactly_once(got, n):
  """Looks at what came out of n records."""
  numbers, times = collections.defaultdict(list), collections.Counter()
  for key, value in got:
    i, number = map(int, value.split())
    assert key == 'k%d' % (i % KEYS)
    times[i] += 1
    numbers[key].append(number)
  assert [i for i in range(n) if times[i] == 0] == []
  assert [i for i in times if times[i] > 1] == []
  for key, all in numbers.items():
    assert sorted(all) == list(range(1, len(all) + 1)), key


@pytest.mark.parametrize('how', ['finalised', 'splittable'])
def test_killed_servers(how, kafka, java, logs, options, long):
  """Every record once, by Beam's sink of transactions."""
  if how == 'splittable' and not long:
    pytest.skip('what Python reads with by itself takes as long again: --long')
  case = Case('killed-' + how, kafka, java, logs, options)
  with case.running() as (got, source):
    reader = case.read() if how == 'finalised' else read(
        kafka, java, case.source, case.source, commit_offset_in_finalize=True)
    case.start(reader, beam.ParDo(Number()).with_output_types(KV[bytes, bytes]), case.write_once())
    case.warm_up(got, source)
    source.start()
    case.kill_servers(25 if long else 6, got, source)
    source.end()
    all_or_quiet(got, source.sent)
    exactly_once(got, source.sent)
    if how == 'finalised':
      until(lambda: sum(kafka.committed(case.source).values()) == source.sent)
    case.checkpoint()  # nothing more comes
    exactly_once(got, source.sent)
    case.server.cancel(case.job)


def test_new_job(kafka, java, logs, options):
  """A job that knows nothing of the one before goes on where that had committed: nothing is lost."""
  case = Case('new', kafka, java, logs, options)
  job = lambda: case.start(
      case.read(), WriteToKafka({'bootstrap.servers': kafka.address}, case.sink, expansion_service=java))
  with case.running() as (got, source):
    job()
    source.start()
    until(lambda: len(got) > 2 * AHEAD and sum(kafka.committed(case.source).values()) > AHEAD, 300)
    case.server.kill()
    killed, committed = time.time(), kafka.committed(case.source)
    case.new_server()
    job()
    until(lambda: len(case.read_since(killed)) == 3, 300)
    assert all(offset == committed[p] for p, offset in case.read_since(killed).items()), committed
    source.end()
    until(lambda: len({v for _, v in got}) == source.sent, 300)
    print('%d records, %d of them again' % (source.sent, len(got) - source.sent))
    case.server.cancel(case.job)


def test_killed_brokers(java, logs, options, long):
  """The broker is away for longer than it keeps transactions open: every record once, or the job says that it failed."""
  if not long:
    pytest.skip('an outage a minute: --long')
  with services.Kafka(logs + '/kafka-killed').running() as kafka:
    case = Case('broker', kafka, java, logs, options)
    with case.running() as (got, source):
      case.start(
          case.read(), beam.ParDo(Number()).with_output_types(KV[bytes, bytes]), case.write_once(timeout_ms=5000))
      case.warm_up(got, source)
      source.start()
      for outage in [1, 10, 40]:
        time.sleep(case.random.uniform(1, 5))
        had = len(got)
        kafka.kill()
        time.sleep(outage)
        kafka.start()
        until(lambda: len(got) > had or case.state() == 'FAILED', 600)
        print('%d records before an outage of %d s, then %d and %s' % (had, outage, len(got), case.state()))
        if case.state() == 'FAILED':  # loudly, and nothing is there twice
          assert len(got) == len({v for _, v in got})
          return
      source.end()
      all_or_quiet(got, source.sent)
      exactly_once(got, source.sent)
      case.server.cancel(case.job)
