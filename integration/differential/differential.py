"""Runs random pipelines on job endpoints and on Beam's own FnApiRunner, and compares.

For each seed all runs must record the same multiset of elements, timestamps and windows.
"""

import argparse
import itertools
import logging
import sys
import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.portable_runner import PortableRunner

import pipelines

_runs = itertools.count()


def execute(runner, flags, seed, steps):
    run = next(_runs)
    p = beam.Pipeline(runner=runner, options=PipelineOptions(flags))
    pipelines.build(p, seed, run, steps, streaming='--streaming' in flags)
    p.run().wait_until_finish()
    return pipelines.take(run)


def variants(endpoints):
    """Yields name and flags: fused and not, 1 and 7 tasks, streaming and not, by turns over the endpoints."""
    for i, (name, address) in enumerate(endpoints):
        for separate, tasks, streaming in [(i % 2, 1, False), (1 - i % 2, 7, False), (i % 2, 7, True)]:
            flags = [f'--job_endpoint={address}', '--environment_type=LOOPBACK', f'--parallelism={tasks}']
            if separate:
                flags.append('--experiments=lintel_separate_stages')
            if streaming:
                flags += ['--streaming', '--allow_unsafe_triggers']
            yield f'{name}, {"separate" if separate else "fused"}, {tasks} tasks{", streaming" if streaming else ""}', flags


def differences(want, got):
    for what, missing in [('missing', want - got), ('too many', got - want)]:
        for element, n in sorted(missing.items())[:5]:
            yield f'    {what} {n} x {element}'


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--endpoint', action='append', required=True, metavar='NAME=HOST:PORT')
    parser.add_argument('--seeds', default='1-20', help='FIRST-LAST')
    parser.add_argument('--steps', type=int, default=12, help='of a pipeline')
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    first, _, last = args.seeds.partition('-')
    bad, passed, began = [], 0, time.time()
    for seed in range(int(first), int(last or first) + 1):
        want = execute(FnApiRunner(), [], seed, args.steps)
        for name, flags in variants(e.split('=', 1) for e in args.endpoint):
            try:
                lines = list(differences(want, execute(PortableRunner(), flags, seed, args.steps)))
            except Exception as e:  # whatever it is, the other pipelines still tell something
                lines = ['    ' + (str(e).strip().splitlines() or [type(e).__name__])[-1][:300]]
            if lines:
                bad.append(seed)
                print(f'seed {seed} ({name}): not what FnApiRunner gives', *lines, sep='\n', flush=True)
            else:
                passed += 1
    print(f'{time.time() - began:.0f} s; again: --seeds SEED' if bad else f'{time.time() - began:.0f} s')
    print(f'{passed} passed, {len(bad)} failed')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
