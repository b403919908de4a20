"""Transforms of other SDKs in Go's pipelines: Beam's own tests."""
import os
import subprocess

import pytest

TESTS = [
    'Prefix', 'CoGroupBy', 'Combine', 'CombineGlobally', 'Flatten', 'GroupBy', 'Multi', 'Partition']


def run(package, test, endpoint, label, service):
  binary = os.path.join(os.environ['GO_TESTS'], package.replace('/', '_') + '.test')
  p = subprocess.run([
      binary, '-test.v', '-test.run=^%s$' % test, '-test.timeout=4m', '--runner=universal',
      '--endpoint=' + endpoint, '--environment_type=LOOPBACK', '--expansion_addr=%s:%s' % (label, service)],
      capture_output=True, text=True, timeout=280)
  output = p.stdout + p.stderr
  assert p.returncode == 0 and '--- PASS: ' + test in output, output[-6000:]


@pytest.mark.parametrize('name', TESTS)
def test_with_python(name, python_test_service, endpoint_with_pool):
  run('test/integration/xlang', 'TestXLang_' + name, endpoint_with_pool, 'test', python_test_service)


@pytest.mark.parametrize('name', TESTS)
def test_with_java(name, java, endpoint):
  run('test/integration/xlang', 'TestXLang_' + name, endpoint, 'test', java)


def test_dataframe(python, endpoint):
  """A transform that the pipeline names by its Python name."""
  run('test/integration/transforms/xlang/dataframe', 'TestDataframe', endpoint, 'python_transform', python)
