#!/usr/bin/env bash
# run.sh [differential.py's options]: random pipelines on two servers of its own, with state
# in memory and in Pebble, against Beam's FnApiRunner; see README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../scripts/lib.sh"

python=$("$ROOT/scripts/venv.sh" beam)
out=$CACHE/results/differential
mkdir -p "$out"
first_pid= first_dir=
stop_both() {
  KEEP_LOG=$out/pebble.log stop_lintel
  SERVER_PID=$first_pid SERVER_DIR=$first_dir
  KEEP_LOG=$out/memory.log stop_lintel
}
trap stop_both EXIT
trap 'exit 130' INT TERM
start_lintel --state-backend memory
first_pid=$SERVER_PID first_dir=$SERVER_DIR memory=$JOB_ENDPOINT
start_lintel --state-backend pebble
status=0
"$python" "$here/differential.py" --endpoint "memory=$memory" --endpoint "pebble=$JOB_ENDPOINT" "$@" || status=$?
say "logs of the servers: $out"
exit $status
