#!/usr/bin/env bash
# conformance.sh [--repeat N] [SUITE ...]
# Runs each suite N times in a row and prints a table of what it said. A suite is python-NAME
# (a suite of integration/python), java-batch, java-streaming, go, ts, xlang or differential;
# without any, all. The output of each run is in .cache/results/conformance. TIMEOUT is a Java
# test's, in seconds: more than 60 where others use the machine. SEEDS are differential's.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

all=(python-{portable,portable_streaming,process,transcripts,transforms,validatesrunner,validatesrunner_streaming}
  java-batch java-streaming go ts xlang differential)
repeat=1 suites=()
while [ $# -gt 0 ]; do
  case $1 in
    --repeat) repeat=$2; shift 2 ;;
    -*) die "unknown option $1" ;;
    *) suites+=("$1"); shift ;;
  esac
done
[ ${#suites[@]} -gt 0 ] || suites=("${all[@]}")

run() {
  case $1 in
    python-*) "$ROOT/integration/python/run.sh" --suites "${1#python-}" ;;
    java-*) "$ROOT/integration/java/run.sh" --modes "${1#java-}" --timeout "${TIMEOUT:-60}" ;;
    differential) "$ROOT/integration/differential/run.sh" --seeds "${SEEDS:-1-30}" ;;
    go | ts | xlang) "$ROOT/integration/$1/run.sh" ;;
    *) die "no suite $1: one of ${all[*]}" ;;
  esac
}

out=$CACHE/results/conformance
mkdir -p "$out"
failed=0
for suite in "${suites[@]}"; do
  for i in $(seq "$repeat"); do
    log=$out/$suite.$i.log began=$SECONDS verdict=ok
    run "$suite" >"$log" 2>&1 || { verdict=FAILED; failed=1; }
    # expect.py's line, or the last one of the suites that have no list.
    told=$(grep -E 'of the [0-9]+ expected| passed|agree' "$log" | tail -1 || true)
    printf '%-32s run %d  %-6s %4d s  %s\n' "$suite" "$i" "$verdict" $((SECONDS - began)) "$told"
  done
done
exit $failed
