#!/usr/bin/env bash
# demo.sh: a word count with the Go SDK over the sources of the installed Go tree,
# then a smaller one with Python, on a `lintel dev` of its own.
#   DEMO_DIR     what the Go pipeline reads (default: Go's sources, some 90 MB)
#   DEMO_PY_DIR  what the Python pipeline reads (default: the sources of Go's runtime, 5 MB)
#   DEMO_EXT     only files with this ending (default .go; of your own folders, all)
set -euo pipefail
. "$(dirname "$0")/lib.sh"

sources=$(go env GOROOT)/src
ext=${DEMO_EXT-$([ -n "${DEMO_DIR:-}${DEMO_PY_DIR:-}" ] || echo .go)}
go_dir=${DEMO_DIR:-$sources}
py_dir=${DEMO_PY_DIR:-$([ -n "${DEMO_DIR:-}" ] && echo "$DEMO_DIR" || echo "$sources/runtime")}
job_pid=

stop_all() {
  [ -z "$job_pid" ] || kill "$job_pid" 2>/dev/null || true
  stop_lintel
}
trap stop_all EXIT
trap 'echo; exit 130' INT TERM

jobs() { "$LINTEL" jobs "$@" --endpoint "$JOB_ENDPOINT" 2>/dev/null; }

# words_so_far JOB prints the pipeline's own counter of words, or nothing yet: the
# larger of the committed and the attempted value.
words_so_far() {
  jobs metrics "$1" --user | sed -n 's/.*wordcount:words  *//p' | grep -oE '[0-9]+' | sort -n | tail -1
}

# running_job prints the id of the job that runs.
running_job() {
  jobs list --output json | tr -d ' \n' | grep -oE '"id":"[^"]+","name":"[^"]*","state":"RUNNING"' | cut -d'"' -f4
}

# follow COMMAND... runs a pipeline and shows once a second how far it is.
follow() {
  local job='' start=$SECONDS n last=0
  "$@" >"$SERVER_DIR/out" 2>"$SERVER_DIR/err" &
  job_pid=$!
  while kill -0 "$job_pid" 2>/dev/null; do
    sleep 1
    [ -n "$job" ] || job=$(running_job || true)
    [ -n "$job" ] || continue
    n=$(words_so_far "$job" || true)
    [ -n "$n" ] || continue
    printf '  %3d s  %12d words so far  %10d words/s\n' $((SECONDS - start)) "$n" $((n - last))
    last=$n
  done
  if ! wait "$job_pid"; then
    cat "$SERVER_DIR/err" >&2
    say "--- the server's log ends so:" >&2
    tail -20 "$SERVER_DIR/server.log" >&2
    die "the pipeline failed"
  fi
  job_pid=
  say "The most frequent words:"
  sed 's/^/  /' "$SERVER_DIR/out"
}

say "Building the Go pipeline (examples/go/wordcount)"
mkdir -p "$CACHE/bin"
(cd "$ROOT/examples/go" && go build -o "$CACHE/bin/wordcount" ./wordcount)
start_lintel
say "lintel dev is up: jobs on $JOB_ENDPOINT, HTTP on $HTTP_ENDPOINT"
say "Go: counting the words of $go_dir ($(du -sh "$go_dir" | cut -f1) in all${ext:+, files *$ext})"
follow "$CACHE/bin/wordcount" --input "$go_dir" --ext "$ext" --top 15 \
  --endpoint "$JOB_ENDPOINT" --environment_type LOOPBACK

if ! command -v python3 >/dev/null || ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  say "No Python 3 with venv here: the Python part is left out."
  exit 0
fi
python=$("$ROOT/scripts/venv.sh" beam)
say "Python: counting the words of $py_dir, a smaller input as Python itself takes longer (DEMO_PY_DIR for another)"
follow "$python" "$ROOT/examples/python/wordcount.py" --input "$py_dir" --ext "$ext" --top 15 \
  --runner PortableRunner --job_endpoint "$JOB_ENDPOINT" --environment_type LOOPBACK
