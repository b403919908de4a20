#!/usr/bin/env python3
"""Runs one suite of Beam's Python tests against a job endpoint.

  vr.py --suite NAME --job-endpoint HOST:PORT --out DIR [--label L] [--jobs N]

Each pytest run is a child process with a watchdog: a test past its limit is
stopped by a signal, and if that does not help the child is killed, the test is
marked `hang` and the rest go on in a new child.
"""
import argparse
import glob
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from xml.sax.saxutils import escape, quoteattr

HERE = os.path.dirname(os.path.abspath(__file__))
PY = sys.executable


def site():
  return subprocess.check_output([
      PY, '-c',
      'import os,importlib.util as u;'
      'print(os.path.dirname(u.find_spec("apache_beam").submodule_search_locations[0]))'
  ], text=True).strip()


SITE = site()
BEAM = os.path.join(SITE, 'apache_beam')


def vr_files():
  r = subprocess.run(
      ['grep', '-rl', '--include=*_test.py', 'it_validatesrunner', BEAM],
      capture_output=True, text=True)
  return [
      f for f in sorted(r.stdout.split())
      if '/runners/dataflow/' not in f and '/testing/test_pipeline' not in f
      and not f.endswith('fn_runner_test.py')
      and not f.endswith('translations_test.py')
  ]


PORT = [os.path.join(HERE, 'test_portable.py')]
SUITES = {
    'portable': (lambda: PORT, [], [], '::(PortableTest|AddedTest|OwnTest)::'),
    'portable_streaming': (lambda: PORT, [], [], '::(Portable|Added|Own)StreamingTest::'),
    'process': (lambda: PORT, [],
                ['--vr-process-command=' + HERE + '/sdk_worker.sh'],
                '::ProcessTest::'),
    'validatesrunner': (vr_files, ['-m', 'it_validatesrunner'], []),
    'validatesrunner_streaming': (
        vr_files, ['-m', 'it_validatesrunner'], ['--vr-streaming']),
    # Beam's trigger transcripts as pipelines with a TestStream, and the triggers' own.
    'transcripts': (
        lambda: [BEAM + '/transforms/trigger_test.py'], [], ['--vr-redirect'],
        '::(TestStreamTranscriptTest|WeakTestStreamTranscriptTest|TriggerPipelineTest)::'),
    # Composites that runners replace.
    'transforms': (
        lambda: [BEAM + '/transforms/util_test.py'], [], ['--vr-redirect'],
        '::(GroupIntoBatchesTest|ReshuffleTest)::'),
    # Python's own in-process FnApiRunner: what can be satisfied at all.
    'inprocess': (lambda: [BEAM + '/runners/portability/fn_api_runner/'
                           'fn_runner_test.py'], [], [],
                  '::(FnApiRunnerTest|FnApiBasedStateBackedCoderTest)::'),
}

# Seconds that tests need which wait for the clock.
SLOW = {
    'apache_beam/ml/inference/base_test.py::RunInferenceBaseTest::'
    'test_run_inference_with_side_inputin_streaming': 1500,  # PeriodicImpulse over 20 minutes
}


def main():
  ap = argparse.ArgumentParser()
  ap.add_argument('--suite', required=True, choices=sorted(SUITES))
  ap.add_argument('--job-endpoint', default=os.environ.get('JOB_ENDPOINT'))
  ap.add_argument('--label', default='runner')
  ap.add_argument('--out', required=True, help='folder for the results')
  ap.add_argument('--timeout', type=int, default=60)
  ap.add_argument('--jobs', type=int, default=1)
  ap.add_argument('--chunk', type=int, default=120)
  ap.add_argument('--ids', help='file with the test ids to run, one a line')
  ap.add_argument('--server-cmd', default='', help='starts the job server, '
                  'at first if the port is closed and again if it dies')
  ap.add_argument('--merge', help='.jsonl of an earlier, cut run: not run again')
  ap.add_argument('--retry', type=int, default=1, help='run failures again')
  ap.add_argument('-k', default='', help='more pytest -k')
  ap.add_argument('--extra', default='', help='more pipeline options')
  a = ap.parse_args()
  if not a.job_endpoint:
    ap.error('--job-endpoint or JOB_ENDPOINT')
  files, sel, plug, only = (SUITES[a.suite] + ('',))[:4]
  files = files()
  os.makedirs(a.out, exist_ok=True)
  work = tempfile.mkdtemp(prefix='vr.')
  stem = os.path.join(a.out, a.label + '.' + a.suite)
  env = dict(os.environ)
  env['PYTHONPATH'] = HERE + os.pathsep + env.get('PYTHONPATH', '')
  env['VR_SLOW'] = json.dumps(SLOW)
  env['GRPC_VERBOSITY'] = env.get('GRPC_VERBOSITY', 'ERROR')
  env['PATH'] = os.path.dirname(PY) + os.pathsep + env['PATH']
  base = [
      PY, '-m', 'pytest', '-p', 'vr_plugin', '-c', os.path.join(HERE, 'pytest.ini'),
      '--rootdir', HERE if files == PORT else SITE, '-q', '--no-header', '--tb=short', '--color=no',
  ] + ([] if a.job_endpoint == 'native' else
       ['--job-endpoint', a.job_endpoint]) + plug
  if a.extra:
    base.append('--vr-extra=' + a.extra)
  if a.k:
    sel = sel + ['-k', a.k]
  t0 = time.time()
  col = os.path.join(work, 'collect')
  with open(stem + '.collect.log', 'w') as f:
    subprocess.run(
        base + sel + ['--collect-only', '--vr-collect', col] + files,
        env=env, cwd=work, stdout=f, stderr=subprocess.STDOUT)
  items = [json.loads(l) for l in open(col)]
  if only:
    items = [i for i in items if re.search(only, i['id'])]
  if a.ids:
    want = set(open(a.ids).read().split('\n'))
    items = [i for i in items if i['id'] in want]
  marks = {i['id']: i['marks'] for i in items}
  order = [i['id'] for i in items]
  path_of = {}
  for f in files:
    path_of[f[len(SITE) + 1:] if f.startswith(SITE) else os.path.basename(f)] = f
  mods = {}
  done0 = set()
  if a.merge:
    done0 = {json.loads(l)['id'] for l in open(a.merge)
             if '"event": "result"' in l}
  for i in order:
    if i in done0:
      continue
    mods.setdefault(i.split('::')[0], []).append(i)
  chunks, cur = [], []
  for m, ids in mods.items():
    if cur and len(cur) + len(ids) > a.chunk:
      chunks.append(cur)
      cur = []
    cur = cur + ids
  if cur:
    chunks.append(cur)
  q = queue.Queue()
  for n, c in enumerate(chunks):
    q.put((n, c))
  results, lock, downs, slock = {}, threading.Lock(), {}, threading.Lock()
  for l in open(a.merge) if a.merge else ():
    d = json.loads(l)
    if d['event'] == 'result':
      results[d['id']] = d
  server = [None, 0]

  def up():
    if a.job_endpoint == 'native' or a.suite == 'inprocess':
      return True
    h, p = a.job_endpoint.rsplit(':', 1)
    try:
      socket.create_connection((h, int(p)), 3).close()
      return True
    except OSError:
      return False

  def ensure_up():
    with slock:
      if up():
        return True
      if not a.server_cmd:
        return False
      server[1] += 1
      server[0] = subprocess.Popen(
          a.server_cmd, shell=True, stdin=subprocess.DEVNULL,
          stdout=open('%s.server.%d.log' % (stem, server[1]), 'w'),
          stderr=subprocess.STDOUT, start_new_session=True)
      for _ in range(240):
        if up():
          return True
        time.sleep(0.5)
      return False

  log = open(stem + '.pytest.log', 'w')

  def run_chunk(n, ids):
    left, spin = list(ids), 0
    while left:
      spin += 1
      if not ensure_up():
        with lock:
          for i in left:
            results[i] = {
                'id': i, 'status': 'server_down', 'why': 'job server is down',
                'seconds': 0, 'jobs': -1, 'detail': '', 'log': ''
            }
        return
      sf = os.path.join(work, 'sel.%d.%d' % (n, spin))
      of = os.path.join(work, 'out.%d.%d' % (n, spin))
      open(of, 'w').close()
      with open(sf, 'w') as f:
        f.write('\n'.join(left))
      fs = sorted({path_of[i.split('::')[0]] for i in left})
      cwd = tempfile.mkdtemp(dir=work)
      p = subprocess.Popen(
          base + sel + [
              '--timeout', str(a.timeout), '--timeout-method=signal',
              '--vr-select', sf, '--vr-out', of
          ] + fs, env=env, cwd=cwd, stdout=log, stderr=subprocess.STDOUT,
          start_new_session=True)
      rd, openid, last, killed = open(of), None, time.time(), False
      done, down, looked = set(), False, time.time()
      while True:
        rc = p.poll()
        if rc is None and time.time() - looked > 3:
          looked = time.time()
          if not up() and not up():
            down = True
            os.killpg(p.pid, signal.SIGKILL)
            rc = p.wait()
        for l in rd.readlines():
          d = json.loads(l)
          last = time.time()
          if d['event'] == 'start':
            openid = d['id']
          elif d['event'] == 'result':
            with lock:
              results[d['id']] = d
              done.add(d['id'])
            openid = None
        if rc is not None:
          break
        idle = time.time() - last
        if (openid and idle > SLOW.get(openid, a.timeout) + 30) or (not openid and idle > 120):
          killed = True
          os.killpg(p.pid, signal.SIGKILL)
          p.wait()
          continue
        time.sleep(0.2)
      try:
        os.killpg(p.pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
      if down and openid and openid not in done:
        # The test that was open when the server died gets one more chance.
        downs[openid] = downs.get(openid, 0) + 1
        if downs[openid] < 2:
          left = [openid] + [i for i in left if i not in done and i != openid]
          continue
      if openid and openid not in done:
        with lock:
          results[openid] = {
              'id': openid, 'status': 'server_down' if down else
                        'hang' if killed else 'crash',
              'why': 'killed by the watchdog' if killed else
                     'pytest process ended, rc %s' % rc,
              'seconds': time.time() - last, 'jobs': -1, 'detail': '', 'log': ''
          }
        done.add(openid)
      new = [i for i in left if i not in done]
      if len(new) == len(left):
        with lock:
          for i in new:
            results[i] = {
                'id': i, 'status': 'error', 'why': 'not run, rc %s' % rc,
                'seconds': 0, 'jobs': 0, 'detail': '', 'log': ''
            }
        return
      left = new

  def worker():
    while True:
      try:
        n, c = q.get_nowait()
      except queue.Empty:
        return
      run_chunk(n, c)
      print('%s %s: chunk %d/%d done, %d/%d tests, %.0f s' % (
          a.label, a.suite, n + 1, len(chunks), len(results), len(order),
          time.time() - t0), flush=True)

  ts = [threading.Thread(target=worker) for _ in range(a.jobs)]
  [t.start() for t in ts]
  [t.join() for t in ts]
  if server[0]:
    print('%s: job server started %d times' % (a.label, server[1]))
  wall = time.time() - t0
  first = {}
  if a.retry:
    again = [i for i in order if results.get(i, {}).get('status') in (
        'fail', 'timeout', 'hang', 'crash', 'error')
             and (results[i].get('jobs') != 0 or a.job_endpoint == 'native')]
    first = {i: results.pop(i) for i in again}
    if again:
      run_chunk(len(chunks), again)
    for i in again:
      r = results.get(i)
      if r and r['status'] == 'pass':
        r['flaky'] = '%s: %s' % (first[i]['status'], first[i]['why'])
      elif r is None:
        results[i] = first[i]
  rows = []
  for i in order:
    d = results.get(i) or {'id': i, 'status': 'error', 'why': 'no result',
                           'seconds': 0, 'jobs': 0, 'detail': '', 'log': ''}
    d['marks'] = marks[i]
    d.pop('event', None), d.pop('t', None)
    rows.append(d)
  cnt = {}
  for r in rows:
    cnt[r['status']] = cnt.get(r['status'], 0) + 1
  flaky = [r for r in rows if r.get('flaky')]
  bad = [r for r in rows if r['status'] not in ('pass', 'skip', 'xfail')]
  on = [r for r in rows if r['jobs'] != 0]
  on_ok = [r for r in on if r['status'] == 'pass']
  summary = {
      'suite': a.suite, 'label': a.label, 'endpoint': a.job_endpoint,
      'wall_seconds': round(wall, 1), 'tests': len(rows), 'counts': cnt,
      'passed_second_try': len(flaky), 'reached_endpoint': len(on), 'reached_endpoint_pass': len(on_ok)
  }
  json.dump({'summary': summary, 'tests': rows}, open(stem + '.json', 'w'),
            indent=1)
  with open(stem + '.xml', 'w') as f:
    f.write('<?xml version="1.0" encoding="utf-8"?>\n<testsuites><testsuite '
            'name=%s tests="%d" failures="%d" skipped="%d" time="%.1f">\n' % (
                quoteattr(a.label + '.' + a.suite), len(rows), len(bad),
                cnt.get('skip', 0), wall))
    for r in rows:
      c, _, n = r['id'].rpartition('::')
      f.write('<testcase classname=%s name=%s time="%.3f">' % (
          quoteattr(c), quoteattr(n), r['seconds']))
      ok = lambda s: ''.join(ch for ch in s if ch >= ' ' or ch in '\n\t')
      if r['status'] in ('skip', 'xfail'):
        f.write('<skipped message=%s/>' % quoteattr(ok(r['why'])))
      elif r['status'] != 'pass':
        f.write('<failure type=%s message=%s>%s</failure>' % (
            quoteattr(r['status']), quoteattr(ok(r['why'])),
            escape(ok(r['detail']))))
      f.write('</testcase>\n')
    f.write('</testsuite></testsuites>\n')
  with open(stem + '.failed.txt', 'w') as f:
    for r in flaky:
      f.write('passed-on-2nd-try\t%s\tfirst %s\n' % (
          r['id'], ' '.join(r['flaky'].split())[:300]))
    for r in bad:
      f.write('%s\t%s\tjobs=%s\t%.1fs\t%s\n' % (
          r['status'], r['id'], r['jobs'], r['seconds'],
          ' '.join(r['why'].split())[:300]))
  if server[0]:
    os.killpg(server[0].pid, signal.SIGTERM)
  print('TOTAL %s %s: %d tests, %s; reached the endpoint %d, of them pass %d; '
        'on 2nd try %d; %.0f s' % (a.label, a.suite, len(rows), ', '.join(
            '%s %d' % kv for kv in sorted(cnt.items())), len(on), len(on_ok),
                    len(flaky), wall))


main()
