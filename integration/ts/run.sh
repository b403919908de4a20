#!/usr/bin/env bash
# run.sh [--grep REGEXP] [--parallelism N] [--timeout SECONDS] [--endpoint HOST:PORT] [--update]
# Beam's own TypeScript tests against a `lintel dev` of its own; see README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../scripts/lib.sh"

grep= timeout=45 PARALLELISM=1 JOB_ENDPOINT= update= complete=--complete
while [ $# -gt 0 ]; do
  case $1 in
    --grep) grep=$2; complete=; shift 2 ;;
    --timeout) timeout=$2; shift 2 ;;
    --parallelism) PARALLELISM=$2; shift 2 ;;
    --endpoint) JOB_ENDPOINT=$2; shift 2 ;;
    --update) update=--update; shift ;;
    *) die "unknown option $1" ;;
  esac
done

command -v npm >/dev/null || die "needs Node.js with npm"
build=$CACHE/ts
mkdir -p "$build"
if [ ! -e "$build/installed" ] || ! cmp -s "$here/package-lock.json" "$build/package-lock.json"; then
  say "installing Beam's TypeScript SDK into ${build#"$ROOT"/} (once)"
  cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$build/"
  (cd "$build" && npm ci --silent --prefer-offline --ignore-scripts)
  touch "$build/installed"
fi

out=$CACHE/results/ts
mkdir -p "$out"
if [ -z "$JOB_ENDPOINT" ]; then
  trap 'KEEP_LOG=$out/server.log stop_lintel' EXIT
  trap 'exit 130' INT TERM
  start_lintel
fi
export LINTEL JOB_ENDPOINT PARALLELISM RESULTS=$out/results.json
# The SDK's own switch: without it, its tests marked @ulr don't run.
export BEAM_SERVICE_OVERRIDES="{\"python:apache_beam.runners.portability.local_job_service_main\":\"$JOB_ENDPOINT\"}"
rm -f "$RESULTS"
# MultiLangauge (sic) needs expansion services of other SDKs.
tests=node_modules/apache-beam/dist/test
(cd "$build" && timeout 1200 node node_modules/mocha/bin/_mocha --exit --timeout "$((timeout * 1000))" \
  --require "$here/preload.js" --reporter "$here/reporter.js" --grep "^(?!.*MultiLangauge).*($grep)" \
  "$here/drain_test.js" $tests/primitives_test.js $tests/combine_test.js $tests/wordcount.js $tests/docs/programming_guide.js) \
  3>&1 >"$out/client.log" 2>&1 || true
status=0
[ -z "${SERVER_PID:-}" ] || kill -0 "$SERVER_PID" 2>/dev/null || { say "the server died: $out/server.log"; status=1; }
grep -qs '"ended": true' "$RESULTS" || die "the tests did not run to their end: $out/client.log"
python3 "$here/../expect.py" --expected "$here/expected.txt" --results "$RESULTS" $complete $update || status=1
say "results: $out"
exit $status
