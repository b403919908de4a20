#!/usr/bin/env bash
# run.sh [--suites "portable process"] [--update] [--state-backend B] [vr.py's options]
# Beam's own Python tests against a `lintel dev` of its own; see README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../scripts/lib.sh"

suites=portable update= options=() server=() complete=--complete
while [ $# -gt 0 ]; do
  case $1 in
    --suites) suites=$2; shift 2 ;;
    --update) update=--update; shift ;;
    --state-backend) server+=("$1" "$2"); shift 2 ;;
    -k | --ids) options+=("$1" "$2"); complete=; shift 2 ;;
    *) options+=("$1"); shift ;;
  esac
done

SDK_PYTHON=$("$ROOT/scripts/venv.sh" test)
SDK_BOOT=$CACHE/bin/python-boot
export SDK_PYTHON SDK_BOOT
[ -x "$SDK_BOOT" ] || (cd "$ROOT/examples/go" && go build -o "$SDK_BOOT" github.com/apache/beam/sdks/v2/python/container)

out=$CACHE/results/python
mkdir -p "$out"
trap 'KEEP_LOG=$out/server.log stop_lintel' EXIT
trap 'exit 130' INT TERM
start_lintel ${server[@]+"${server[@]}"}
status=0
for suite in $suites; do
  "$SDK_PYTHON" "$here/vr.py" --suite "$suite" --job-endpoint "$JOB_ENDPOINT" --label lintel --out "$out" ${options[@]+"${options[@]}"}
  kill -0 "$SERVER_PID" 2>/dev/null || { say "the server died: $out/server.log"; status=1; break; }
  "$SDK_PYTHON" "$here/../expect.py" --expected "$here/expected-$suite.txt" --results "$out/lintel.$suite.json" $complete $update || status=1
done
say "results: $out"
exit $status
