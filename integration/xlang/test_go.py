"""Transforms of other SDKs in Go's pipelines."""
import os
import subprocess

import pytest

TESTS = [
    'Prefix', 'CoGroupBy', 'Combine', 'CombineGlobally', 'Flatten', 'GroupBy', 'Multi', 'Partition']


def run(package, test, endpoint, label, service, *flags):
  binary = os.path.join(os.environ['GO_TESTS'], package.replace('/', '_') + '.test')
  p = subprocess.run([
      binary, '-test.v', '-test.run=^%s$' % test, '-test.timeout=4m', '--runner=universal',
      '--endpoint=' + endpoint, '--environment_type=LOOPBACK', '--expansion_addr=%s:%s' % (label, service), *flags],
      capture_output=True, text=True, timeout=280)
  output = p.stdout + p.stderr
  assert p.returncode == 0 and '--- PASS: ' + test in output, output[-6000:]


@pytest.mark.parametrize('workers', ['service', 'pool'])
def test_with_python(workers, request, tmp_path):
  """The example: a transform in Python's source, whose keys the rest of the pipeline groups."""
  service = request.getfixturevalue('python' if workers == 'service' else 'python_without_workers')
  endpoint = request.getfixturevalue('endpoint' if workers == 'service' else 'endpoint_with_pool')
  out = tmp_path / 'counts.txt'
  subprocess.run([
      os.environ['GO_EXAMPLE'], '--expansion_service=' + service, '--output=%s' % out,
      '--endpoint=' + endpoint, '--environment_type=LOOPBACK', 'caf\u00e9', 'Cafe', 'CAF\u00c9', 'tea'],
      check=True, timeout=280)
  assert sorted(out.read_text().splitlines()) == ['1\ttea', '3\tcafe']


@pytest.mark.parametrize('name', TESTS)
def test_with_java(name, java, endpoint):
  run('test/integration/xlang', 'TestXLang_' + name, endpoint, 'test', java)


def test_dataframe(python, endpoint):
  """A transform that the pipeline names by its Python name."""
  run('test/integration/transforms/xlang/dataframe', 'TestDataframe', endpoint, 'python_transform', python)


def test_kafka(java, kafka, endpoint):
  run('test/integration/io/xlang/kafka', 'TestKafkaIO_BasicReadWrite', endpoint, 'io', java,
      '--bootstrap_servers=' + kafka.address)
