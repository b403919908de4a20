#!/usr/bin/env bash
# run.sh [--packages REGEXP] [--update] [run.py's options]
# Beam's own Go tests against a `lintel dev` of its own; see README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../scripts/lib.sh"

packages=. update= options=() complete=--complete
while [ $# -gt 0 ]; do
  case $1 in
    --packages) packages=$2; [ "$2" = . ] || complete=; shift 2 ;;
    --update) update=--update; shift ;;
    --run) options+=("$1" "$2"); complete=; shift 2 ;;
    *) options+=("$1"); shift ;;
  esac
done

# One test binary a package, kept between runs: linking them takes a while.
bin=$CACHE/gosdk-$BEAM_VERSION
mkdir -p "$bin"
[ -x "$bin/test2json" ] || go build -o "$bin/test2json" cmd/test2json
lists=("$here/packages.txt")
case " ${options[*]-} " in *" --external "*) lists+=("$here/packages-external.txt") ;; esac
for p in $(cat "${lists[@]}" | grep -E -- "$packages"); do
  test=$bin/${p//\//_}.test
  [ -s "$test" ] && continue
  say "building the tests of $p"
  (cd "$here" && go test -vet=off -c -o "$test" "github.com/apache/beam/sdks/v2/go/$p")
done

out=$CACHE/results/go
mkdir -p "$out"
trap 'KEEP_LOG=$out/server.log stop_lintel' EXIT
trap 'exit 130' INT TERM
start_lintel
status=0
python3 "$here/run.py" "$JOB_ENDPOINT" --bin "$bin" --out "$out" --packages "$packages" --drain "$LINTEL jobs drain --endpoint $JOB_ENDPOINT" ${options[@]+"${options[@]}"}
kill -0 "$SERVER_PID" 2>/dev/null || { say "the server died: $out/server.log"; status=1; }
python3 "$here/../expect.py" --expected "$here/expected.txt" --results "$out/results.json" $complete $update || status=1
say "results: $out"
exit $status
