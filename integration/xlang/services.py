"""Starts what the tests need beside the pipelines: Lintel, expansion services, a broker."""
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

CACHE = os.environ['XLANG_CACHE']
# Java's expansion service and all that it needs, the workers' classes too.
CLASSES = '%s/java/xlang.jar:%s/java/lib/*' % (CACHE, CACHE)


def free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def listening(port):
  with socket.socket() as s:
    return s.connect_ex(('127.0.0.1', port)) == 0


@contextlib.contextmanager
def process(command, log, ready, seconds=120, env=None):
  """Runs a command, yields once ready() is true, and ends it with all that it started."""
  with open(log, 'w') as out:
    p = subprocess.Popen(
        command, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
        start_new_session=True, cwd=os.path.dirname(log), env={**os.environ, **(env or {})})
  try:
    deadline = time.monotonic() + seconds
    while not ready():
      if p.poll() is not None or time.monotonic() > deadline:
        with open(log) as f:
          raise RuntimeError('%s did not start:\n%s' % (command[0], f.read()[-3000:]))
      time.sleep(0.1)
    yield p
  finally:
    p.send_signal(signal.SIGTERM)
    try:
      p.wait(15)
    except subprocess.TimeoutExpired:
      pass
    with contextlib.suppress(ProcessLookupError):
      os.killpg(p.pid, signal.SIGKILL)
    p.wait()


@contextlib.contextmanager
def lintel(folder, *flags):
  """A server of its own; yields its job endpoint."""
  with contextlib.closing(Server(folder, *flags)) as server:
    yield server.jobs


class Server:
  """A server of its own that may be killed and started again, with its data."""
  def __init__(self, folder, *flags):
    self.folder, self.flags, self.starts = folder, flags, 0
    os.makedirs(folder + '/tmp')
    self.start()

  def start(self):
    self.starts += 1
    ready = '%s/ready-%d' % (self.folder, self.starts)
    command = [
        os.environ['LINTEL'], 'dev', '--job-port=0', '--http-port=0',
        '--data-dir=%s/data' % self.folder, '--ready-file=' + ready, *self.flags]
    # No Docker engine: an environment that nobody has said how to start is refused.
    env = {'TMPDIR': self.folder + '/tmp', 'DOCKER_HOST': 'unix://%s/no-docker' % self.folder}
    self.running = contextlib.ExitStack()
    self.process = self.running.enter_context(
        process(command, '%s/server-%d.log' % (self.folder, self.starts), lambda: os.path.exists(ready), env=env))
    with open(ready) as f:
      at = json.load(f)
    self.jobs, self.http = at['jobEndpoint'], at['http']

  def kill(self):
    self.process.kill()
    self.close()

  def close(self):
    self.running.close()

  def cancel(self, job):
    subprocess.run([os.environ['LINTEL'], 'jobs', 'cancel', '--endpoint', self.jobs, job], check=True)

  def get(self, path):
    with urllib.request.urlopen(self.http + path, timeout=10) as r:
      return json.load(r)


@contextlib.contextmanager
def java_service(log, *options):
  """Java's expansion service; yields its address."""
  port = free_port()
  command = [
      'java', '-Xmx768m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-cp', CLASSES,
      'org.apache.beam.sdk.expansion.service.ExpansionService', str(port), *options]
  with process(command, log, lambda: listening(port)):
    yield 'localhost:%d' % port


@contextlib.contextmanager
def python_service(module, log, *options):
  """Python's expansion service; yields its address."""
  port = free_port()
  command = [sys.executable, '-m', module, '--port=%d' % port, *options]
  with process(command, log, lambda: listening(port)):
    yield 'localhost:%d' % port


@contextlib.contextmanager
def worker_pool(log):
  """A pool of Python workers; yields its address."""
  port = free_port()
  command = [
      sys.executable, '-m', 'apache_beam.runners.worker.worker_pool_main',
      '--service_port=%d' % port]
  # It starts workers by the name of python.
  env = {'PATH': '%s:%s' % (os.path.dirname(sys.executable), os.environ['PATH'])}
  with process(command, log, lambda: listening(port), env=env):
    yield 'localhost:%d' % port


class Kafka:
  """A broker of one node that keeps its data in a folder."""
  def __init__(self, folder):
    self.folder = folder
    self.port, self.controller = free_port(), free_port()
    self.address = 'localhost:%d' % self.port
    self.properties = folder + '/server.properties'

  def java(self, main, *arguments):
    return [
        'java', '-Xmx512m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1',
        '-Dorg.slf4j.simpleLogger.defaultLogLevel=warn',
        '-cp', CACHE + '/kafka/lib/*', main, *arguments]

  @contextlib.contextmanager
  def running(self):
    os.makedirs(self.folder)
    with open(self.properties, 'w') as f:
      f.write('\n'.join([
          'process.roles=broker,controller',
          'node.id=1',
          'controller.quorum.voters=1@localhost:%d' % self.controller,
          'listeners=PLAINTEXT://localhost:%d,CONTROLLER://localhost:%d' % (self.port, self.controller),
          'advertised.listeners=PLAINTEXT://localhost:%d' % self.port,
          'controller.listener.names=CONTROLLER',
          'log.dirs=%s/logs' % self.folder,
          'num.partitions=3',
          'group.initial.rebalance.delay.ms=0',
          'offsets.topic.num.partitions=1',
          'offsets.topic.replication.factor=1',
          'transaction.state.log.num.partitions=1',
          'transaction.state.log.replication.factor=1',
          'transaction.state.log.min.isr=1',
          '']))
    subprocess.run(
        self.java('kafka.tools.StorageTool', 'format', '-t', 'MkU3OEVBNTcwNTJENDM2Qg', '-c', self.properties),
        check=True, capture_output=True)
    self.start()
    try:
      yield self
    finally:
      self.broker.close()

  def start(self):
    """Starts the broker, or starts it again with the data that it has."""
    self.broker = contextlib.ExitStack()
    self.process = self.broker.enter_context(process(
        self.java('kafka.Kafka', self.properties), self.folder + '/broker.log', lambda: listening(self.port)))

  def kill(self):
    self.process.kill()
    self.broker.close()

  def tool(self, main, *arguments, stdin=None):
    p = subprocess.run(
        self.java(main, *arguments), capture_output=True, text=True, input=stdin, timeout=120)
    if p.returncode:
      raise RuntimeError('%s %s: %s' % (main, arguments, p.stderr[-3000:]))
    return p.stdout

  def create_topic(self, name):
    self.tool(
        'org.apache.kafka.tools.TopicCommand', '--bootstrap-server', self.address,
        '--create', '--topic', name, '--partitions', '3')

  def send(self, topic, records):
    """Sends pairs of strings."""
    self.tool(
        'org.apache.kafka.tools.ConsoleProducer', '--bootstrap-server', self.address, '--topic', topic,
        '--reader-property', 'parse.key=true', '--reader-property', 'key.separator=|',
        stdin=''.join('%s|%s\n' % r for r in records))

  def read(self, topic, count):
    """Returns count records of a topic, as pairs of strings, in any order."""
    out = self.tool(
        'org.apache.kafka.tools.consumer.ConsoleConsumer', '--bootstrap-server', self.address, '--topic', topic,
        '--from-beginning', '--max-messages', str(count), '--timeout-ms', '60000',
        '--formatter-property', 'print.key=true', '--formatter-property', 'key.separator=|')
    return [tuple(line.split('|', 1)) for line in out.splitlines()]

  def committed(self, group):
    """Returns which offset a consumer group has committed, by partition."""
    out = self.tool(
        'org.apache.kafka.tools.consumer.group.ConsumerGroupCommand', '--bootstrap-server', self.address,
        '--describe', '--group', group)
    rows = [line.split() for line in out.splitlines() if line.startswith(group + ' ')]
    return {int(row[2]): int(row[3]) for row in rows if row[3] != '-'}

  @contextlib.contextmanager
  def producing(self, topic):
    """Yields what sends a pair of strings."""
    with open('%s/producing-%s.log' % (self.folder, topic), 'w') as log:
      p = subprocess.Popen(
          self.java(
              'org.apache.kafka.tools.ConsoleProducer', '--bootstrap-server', self.address, '--topic', topic,
              '--reader-property', 'parse.key=true', '--reader-property', 'key.separator=|',
              '--timeout', '100', '--request-required-acks', 'all', '--message-send-max-retries', '10000'),
          stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, bufsize=1, start_new_session=True)

    def send(key, value):
      p.stdin.write('%s|%s\n' % (key, value))

    try:
      yield send
    finally:
      p.stdin.close()  # which sends the rest
      p.wait(60)

  @contextlib.contextmanager
  def following(self, topic):
    """Yields a list that gets all committed records of a topic, as pairs of strings, as they come."""
    got = []
    with open('%s/following-%s.log' % (self.folder, topic), 'w') as log:
      p = subprocess.Popen(
          self.java(
              'org.apache.kafka.tools.consumer.ConsoleConsumer', '--bootstrap-server', self.address,
              '--topic', topic, '--from-beginning', '--isolation-level', 'read_committed',
              '--formatter-property', 'print.key=true', '--formatter-property', 'key.separator=|'),
          stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)

    def follow():
      for line in p.stdout:
        got.append(tuple(line.rstrip('\n').split('|', 1)))

    thread = threading.Thread(target=follow)
    thread.start()
    try:
      yield got
    finally:
      p.kill()
      p.wait()
      thread.join()
