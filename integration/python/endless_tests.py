"""Jobs without end, which somebody drains or cancels while the client waits."""
import time

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.runner import PipelineState
from apache_beam.transforms import window
from apache_beam.transforms.periodicsequence import PeriodicImpulse


class Count(beam.DoFn):
  """Counts windows, and the elements that they hold."""
  def process(self, element):
    Metrics.counter('endless', 'windows').inc()
    Metrics.counter('endless', 'grouped').inc(len(list(element[1])))


def note(element):
  Metrics.counter('endless', 'read').inc()
  return '', element


def counter(result, name):
  result._metrics = None  # what was read before
  found = result.metrics().query(MetricsFilter().with_name(name))['counters']
  return max((c.result or 0 for c in found), default=0)


class EndlessTests:
  def start(self):
    """Runs a pipeline until windows of it have closed."""
    p = self.create_pipeline()
    _ = (
        p
        | PeriodicImpulse(fire_interval=0.05)
        | beam.Map(note)
        | beam.WindowInto(window.FixedWindows(0.5))
        | beam.GroupByKey()
        | beam.ParDo(Count()))
    result = p.run()
    deadline = time.monotonic() + 60
    while counter(result, 'windows') < 3:
      self.assertLess(time.monotonic(), deadline, 'windows do not close')
      self.assertFalse(PipelineState.is_terminal(result.state), result.state)
      time.sleep(0.2)
    return result

  def test_drain(self):
    result = self.start()
    result._job_service.Drain(beam_job_api_pb2.DrainJobRequest(job_id=result._job_id))
    with self.assertRaisesRegex(RuntimeError, 'DRAINED'):
      result.wait_until_finish()
    self.assertEqual(PipelineState.DRAINED, result.state)
    self.assertEqual(counter(result, 'read'), counter(result, 'grouped'))

  def test_cancel(self):
    result = self.start()
    result.cancel()
    with self.assertRaisesRegex(RuntimeError, 'CANCELLED'):
      result.wait_until_finish()
    self.assertEqual(PipelineState.CANCELLED, result.state)
