"""A worker pool of the Python SDK, for EXTERNAL environments. It prints its address, and runs until it is killed."""
import argparse
import logging
import signal

from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

if __name__ == '__main__':
  logging.getLogger().setLevel(logging.ERROR)
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--processes', action='store_true', help='workers are processes, not threads')
  address, server = BeamFnExternalWorkerPoolServicer.start(use_process=parser.parse_args().processes)
  print(address, flush=True)
  signal.pause()
