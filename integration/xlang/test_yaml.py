"""Beam YAML, as its command line runs it."""
import json
import subprocess
import sys

PIPELINE = '''
pipeline:
  type: chain
  transforms:
    - type: Create
      config:
        elements:
          - {name: ada, born: 1815}
          - {name: alan, born: 1912}
          - {name: grace, born: 1906}
          - {name: edsger, born: 1930}
%s
    - type: WriteToJson
      config:
        path: %s
        num_shards: 1
'''

PYTHON = '''
    - type: Filter
      config: {language: python, keep: born > 1850}
    - type: MapToFields
      config:
        language: python
        fields:
          decade: born // 10 * 10
          letters: {callable: "lambda row: len(row.name)"}
    - type: WindowInto
      windowing: {type: global}
    - type: Combine
      config:
        group_by: decade
        combine: {letters: sum}
'''

SQL = '''
    - type: Sql
      config:
        query: SELECT name, born FROM PCOLLECTION WHERE born < 1910
    - type: MapToFields
      config:
        language: python
        append: true
        fields: {initial: "name[0]"}
'''


def run(transforms, folder, endpoint, *options):
  pipeline = folder / 'pipeline.yaml'
  pipeline.write_text(PIPELINE % (transforms, folder / 'out'))
  subprocess.run([
      sys.executable, '-m', 'apache_beam.yaml.main', '--yaml_pipeline_file=%s' % pipeline,
      '--runner=PortableRunner', '--job_endpoint=' + endpoint, '--environment_type=LOOPBACK', *options],
      check=True, timeout=240)
  rows = [json.loads(line) for file in folder.glob('out*') for line in file.read_text().splitlines()]
  return sorted(tuple(sorted(row.items())) for row in rows)


def test_python(endpoint, tmp_path):
  assert run(PYTHON, tmp_path, endpoint) == [
      (('decade', 1900), ('letters', 5)), (('decade', 1910), ('letters', 4)), (('decade', 1930), ('letters', 6))]


def test_sql(java, endpoint, tmp_path):
  services = {'sdks:java:extensions:sql:expansion-service:shadowJar': java}
  assert run(SQL, tmp_path, endpoint, '--beam_services=' + json.dumps(services)) == [
      (('born', 1815), ('initial', 'a'), ('name', 'ada')), (('born', 1906), ('initial', 'g'), ('name', 'grace'))]
