#!/usr/bin/env python3
"""Reads Surefire's reports: results.py --reports DIR --tests tests.tsv --out FILE.json

Writes id, status, seconds, categories and cause of each test, and prints a summary.
Status: pass, fail, timeout, skip.
"""
import argparse
import collections
import glob
import json
import os
import xml.etree.ElementTree as ET

PREFIX = 'org.apache.beam.sdk.'


def cause(text):
  lines = [l.strip() for l in text.splitlines() if l.strip()]
  last = [l for l in lines if l.startswith('Caused by:')][-1:]
  return ' | '.join([' '.join(lines[:3])[:300]] + [l[:300] for l in last])


def outcome(case):
  """(status, text) of a test case"""
  if case.find('skipped') is not None:
    return 'skip', case.find('skipped').get('message') or ''
  for tag in ('failure', 'error'):
    e = case.find(tag)
    if e is not None:
      text = (e.get('message') or '') + '\n' + (e.text or '')
      late = any(s in text for s in ('InterruptedException', 'Thread interrupted', 'TestTimedOutException'))
      return 'timeout' if late else 'fail', text
  return 'pass', ''


def read(reports, categories):
  tests = {}
  for f in sorted(glob.glob(os.path.join(reports, 'TEST-*.xml'))):
    try:
      root = ET.parse(f).getroot()
    except ET.ParseError as e: # its JVM was halted
      print('unreadable: %s: %s' % (f, e))
      continue
    for c in root.iter('testcase'):
      name = '%s#%s' % (c.get('classname'), c.get('name'))
      status, text = outcome(c)
      tests[name] = {
          'id': name.replace(PREFIX, '', 1),
          'status': status,
          'seconds': float((c.get('time') or '0').replace(',', '')),
          'categories': categories.get(name.split('[')[0], '').split(','),
          'why': cause(text),
      }
  return tests


def main():
  ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  ap.add_argument('--reports', required=True)
  ap.add_argument('--tests', required=True)
  ap.add_argument('--out', required=True)
  a = ap.parse_args()
  with open(a.tests) as f:
    categories = dict(l.rstrip('\n').split('\t') for l in f)
  tests = read(a.reports, categories)
  with open(a.out, 'w') as f:
    json.dump({'tests': [tests[k] for k in sorted(tests)]}, f, indent=1)
  classes = collections.defaultdict(collections.Counter)
  for t in tests.values():
    classes[t['id'].split('#')[0]][t['status']] += 1
    if t['status'] not in ('pass', 'skip'):
      print('%-7s %s: %s' % (t['status'], t['id'], t['why'][:260]))
  for name in sorted(classes):
    print('%-60s %s' % (name, ', '.join('%d %s' % (n, s) for s, n in sorted(classes[name].items()))))
  total = collections.Counter(t['status'] for t in tests.values())
  ran = {k.split('[')[0] for k in tests}
  print('ran %d: %s; not run: %d; %.0f s of tests' % (
      len(tests), dict(total), sum(k not in ran for k in categories), sum(t['seconds'] for t in tests.values())))


main()
