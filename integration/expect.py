#!/usr/bin/env python3
"""Compares a suite's results with the checked-in list of tests that pass.

  expect.py --expected FILE --results FILE.json [--complete] [--update]

A listed test that ran and did not pass is a regression: exit status 1. A test that
passes and is not listed is told, and added with --update. --complete says that the
whole suite ran, so that a listed test without a result is a regression too.
"""
import argparse
import json
import os
import sys


def outcomes(path):
  """test id -> whether it passed, of either suite's results file"""
  with open(path) as f:
    tests = json.load(f)['tests']
  return {
      t.get('id') or '%(package)s.%(test)s' % t:
      (t.get('status') or t['result']) == 'pass'
      for t in tests
  }


def read_list(path):
  if not os.path.exists(path):
    return set()
  with open(path) as f:
    return {l.strip() for l in f if l.strip() and not l.startswith('#')}


def main():
  ap = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  ap.add_argument('--expected', required=True)
  ap.add_argument('--results', required=True)
  ap.add_argument('--complete', action='store_true')
  ap.add_argument('--update', action='store_true')
  a = ap.parse_args()
  got, expected = outcomes(a.results), read_list(a.expected)
  passed = {i for i, ok in got.items() if ok}
  due = {i for i in expected if i in got or a.complete}
  lost = due - passed
  new = passed - expected
  name = os.path.basename(a.expected)
  for i in sorted(new):
    print('new pass: ' + i)
  for i in sorted(lost):
    print('REGRESSION: %s %s' % (i, 'did not pass' if i in got else 'was not run'))
  if a.update and new:
    with open(a.expected, 'w') as f:
      f.write('# Tests that must pass; written by expect.py --update.\n')
      f.writelines(i + '\n' for i in sorted(expected | passed))
  print('%s: %d of the %d expected to pass do, %d new' % (
      name, len(due & passed), len(due), len(new)))
  if not got:
    print('no test ran')
  return 1 if lost or not got else 0


sys.exit(main())
