"""The services, once for all tests, and the pipelines' options."""
import os
import shutil
import signal
import subprocess
import sys

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

import services

# What runs is ended by fixtures, on SIGTERM too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def pytest_addoption(parser):
  parser.addoption('--long', action='store_true', help='more of what takes long: servers and brokers killed')


@pytest.fixture
def long(request):
  """Whether there is time."""
  return request.config.getoption('--long')


@pytest.fixture(scope='session')
def logs():
  shutil.rmtree(os.environ['XLANG_OUT'], ignore_errors=True)
  os.makedirs(os.environ['XLANG_OUT'])
  return os.environ['XLANG_OUT']


@pytest.fixture(scope='session')
def endpoint(logs):
  """Of a server that nobody has told how to start workers of Java or Python."""
  with services.lintel(logs + '/lintel') as address:
    yield address


@pytest.fixture(scope='session')
def java(logs):
  """Java's service, with workers in its own process. One small file is enough to stage."""
  staged = logs + '/staged.txt'
  with open(staged, 'w') as f:
    f.write('lintel\n')
  with services.java_service(
      logs + '/java.log', '--alsoStartLoopbackWorker', '--filesToStage=' + staged) as address:
    yield address


@pytest.fixture(scope='session')
def java_in_docker(logs):
  """Java's service as it is without options: its environment is DOCKER, its class path is staged."""
  with services.java_service(logs + '/java-docker.log') as address:
    yield address


@pytest.fixture(scope='session')
def python(logs):
  """Python's service, with workers in its own process."""
  with services.python_service(
      'apache_beam.runners.portability.expansion_service_main', logs + '/python.log',
      '--fully_qualified_name_glob=*', '--serve_loopback_worker') as address:
    yield address


@pytest.fixture(scope='session')
def python_without_workers(logs):
  """Python's service as it is without options: its environment is DOCKER."""
  with services.python_service(
      'apache_beam.runners.portability.expansion_service_main', logs + '/python-docker.log',
      '--fully_qualified_name_glob=*') as address:
    yield address


@pytest.fixture(scope='session')
def pool(logs):
  with services.worker_pool(logs + '/pool.log') as address:
    yield address


@pytest.fixture(scope='session')
def kafka(logs):
  with services.Kafka(logs + '/kafka').running() as broker:
    yield broker


@pytest.fixture(scope='session', autouse=True)
def pip_freeze_once():
  """The SDK runs pip freeze, which takes seconds, for each pipeline that it submits."""
  original, frozen = subprocess.check_output, []

  def check_output(*args, **kwargs):
    if args and list(args[0])[1:] == ['-m', 'pip', 'freeze']:
      if not frozen:
        frozen.append(original(*args, **kwargs))
      return frozen[0]
    return original(*args, **kwargs)

  subprocess.check_output = check_output
  yield
  subprocess.check_output = original


@pytest.fixture
def options(endpoint):
  """Makes options of a pipeline whose Python functions run here."""
  def make(*more, endpoint=endpoint):
    return PipelineOptions([
        '--runner=PortableRunner', '--job_endpoint=' + endpoint, '--environment_type=LOOPBACK', *more])

  return make


@pytest.fixture(scope='session')
def endpoint_with_pool(logs, pool):
  """Of a server that starts all workers of Python in a pool."""
  with services.lintel(logs + '/lintel-pool', '--environments=python=EXTERNAL:' + pool) as address:
    yield address


@pytest.fixture(scope='session')
def python_test_service(logs):
  """The service of Beam's own tests."""
  with services.python_service(
      'apache_beam.runners.portability.expansion_service_test', logs + '/python-test.log') as address:
    yield address
