"""Transforms of another SDK in Python's pipelines."""
import os
import typing

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.testing.util import assert_that
from apache_beam.testing.util import equal_to
from apache_beam.transforms import validate_runner_xlang_test as beams
from apache_beam.transforms.external import ImplicitSchemaPayloadBuilder
from apache_beam.transforms.external import JavaJarExpansionService

import services

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = [
    'prefix', 'multi_input_output_with_sideinput', 'group_by_key', 'cogroup_by_key',
    'combine_globally', 'combine_per_key', 'flatten', 'partition']


@pytest.mark.parametrize('name', TESTS)
def test_beams_own_with_java(name, java, options):
  run_beams_own(name, java, options())


@pytest.mark.parametrize('name', TESTS)
def test_beams_own_with_python(name, python_test_service, endpoint_with_pool, options):
  run_beams_own(name, python_test_service, options(endpoint=endpoint_with_pool))


def run_beams_own(name, service, options):
  getattr(beams.CrossLanguageTestPipelines(service), 'run_' + name)(beam.Pipeline(options=options))


def test_keys_of_both_sdks_group(java, options):
  """The bytes of a key are the same wherever it comes from."""
  with beam.Pipeline(options=options()) as p:
    words = ['a', '', 'bb', 'a', 'x' * 300]
    of_java = (
        p
        | beam.Create(words).with_output_types(str)
        | beam.ExternalTransform('beam:transforms:xlang:count', None, java))
    of_python = (
        p
        | 'Python' >> beam.Create([('a', 10), ('', 20), ('x' * 300, 30)]).with_output_types(
            typing.Tuple[str, int]))
    together = (
        (of_java, of_python)
        | beam.Flatten()
        | beam.GroupByKey()
        | beam.MapTuple(lambda k, v: (k, sorted(v))))
    assert_that(together, equal_to([('a', [2, 10]), ('', [1, 20]), ('bb', [1]), ('x' * 300, [1, 30])]))


class Place(typing.NamedTuple):
  city: str
  number: int


coders.registry.register_coder(Place, coders.RowCoder)


def test_rows_as_keys(java, options):
  with beam.Pipeline(options=options()) as p:
    groups = (
        p
        | beam.Create([(Place('a', 1), 'x'), (Place('b', 1), 'y'), (Place('a', 1), 'z')],
                      reshuffle=False).with_output_types(typing.Tuple[Place, str])
        | beam.ExternalTransform(beams.TEST_GBK_URN, None, java)
        | beam.MapTuple(lambda k, v: (tuple(k), sorted(v))))
    assert_that(groups, equal_to([(('a', 1), ['x', 'z']), (('b', 1), ['y'])]))


def test_there_and_back(java, options):
  """Three environments in turns: Python, Java, Python, Java."""
  with beam.Pipeline(options=options()) as p:
    lines = p | beam.Create(range(1000)) | beam.Map(str).with_output_types(str)
    for i in range(2):
      lines = (
          lines
          | 'Java%d' % i >> beam.ExternalTransform(
              beams.TEST_PREFIX_URN, ImplicitSchemaPayloadBuilder({'data': str(i)}), java)
          | 'Python%d' % i >> beam.Map(lambda s: s + '.').with_output_types(str))
    assert_that(lines, equal_to(['10%d..' % i for i in range(1000)]))


def test_service_started_by_the_sdk(options):
  """As Python does it with the jars that it fetches: workers run in the service's process."""
  with beam.Pipeline(options=options()) as p:
    prefixed = (
        p
        | beam.Create(['a', 'b']).with_output_types(str)
        | beam.ExternalTransform(
            beams.TEST_PREFIX_URN, ImplicitSchemaPayloadBuilder({'data': '0'}),
            JavaJarExpansionService(services.CACHE + '/java/xlang.jar')))
    assert_that(prefixed, equal_to(['0a', '0b']))


def test_missing_environment_is_refused(java_in_docker, options):
  """Nothing can start containers here: the pipeline is refused, with what to do."""
  p = beam.Pipeline(options=options())
  _ = (
      p
      | beam.Create(['a']).with_output_types(str)
      | beam.ExternalTransform(
          beams.TEST_PREFIX_URN, ImplicitSchemaPayloadBuilder({'data': '0'}), java_in_docker))
  with pytest.raises(Exception) as refused:
    p.run()
  message = str(refused.value)
  assert 'docker' in message.lower() and "--environments 'java=TYPE:CONFIG'" in message, message


def test_environment_replaced(java_in_docker, options):
  """The Java worker in a process, by Beam's boot program, with the class path that the service has staged."""
  command = HERE + '/java_worker.sh'
  with beam.Pipeline(options=options(
      '--environments=java=PROCESS:{"command":"%s"}' % command, '--experiments=disable_jamm_agent')) as p:
    prefixed = (
        p
        | beam.Create(['a', 'b']).with_output_types(str)
        | beam.ExternalTransform(
            beams.TEST_PREFIX_URN, ImplicitSchemaPayloadBuilder({'data': '0'}), java_in_docker))
    assert_that(prefixed, equal_to(['0a', '0b']))
