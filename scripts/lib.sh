# Shared by the scripts here: sourced, never run. The caller has set -euo pipefail.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${LINTEL_CACHE:-$ROOT/.cache}
LINTEL=${LINTEL_BINARY:-$ROOT/bin/lintel}
BEAM_VERSION=2.77.0

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# start_lintel [FLAG ...] runs `lintel dev` on free ports, with a data folder and TMPDIR of
# its own, and waits until it takes jobs. It sets JOB_ENDPOINT, HTTP_ENDPOINT (host:port),
# SERVER_PID and SERVER_DIR.
start_lintel() {
  SERVER_DIR=$(mktemp -d "${TMPDIR:-/tmp}/lintel.XXXXXX")
  local ready=$SERVER_DIR/ready
  mkdir "$SERVER_DIR/tmp"
  # Its own working folder too: Beam's boot program for Python writes to that.
  (cd "$SERVER_DIR/tmp" && TMPDIR=$PWD exec "$LINTEL" dev --job-port 0 --http-port 0 \
    --data-dir "$SERVER_DIR/data" --ready-file "$ready" "$@") >"$SERVER_DIR/server.log" 2>&1 &
  SERVER_PID=$!
  until [ -s "$ready" ]; do
    kill -0 "$SERVER_PID" 2>/dev/null || { cat "$SERVER_DIR/server.log" >&2; die "lintel dev did not start"; }
    sleep 0.05
  done
  JOB_ENDPOINT=$(sed -n 's/.*"jobEndpoint":"\([^"]*\)".*/\1/p' "$ready")
  HTTP_ENDPOINT=$(sed -n 's,.*"http":"http://\([^"]*\)".*,\1,p' "$ready")
}

# stop_lintel ends the server, within 12 s at most, and removes its data.
# KEEP_LOG=FILE keeps the server's log.
stop_lintel() {
  [ -n "${SERVER_PID:-}" ] || return 0
  kill -TERM "$SERVER_PID" 2>/dev/null || true
  for _ in $(seq 120); do
    kill -0 "$SERVER_PID" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$SERVER_PID" 2>/dev/null || true
  wait "$SERVER_PID" 2>/dev/null || true
  SERVER_PID=
  [ -z "${KEEP_LOG:-}" ] || cp "$SERVER_DIR/server.log" "$KEEP_LOG"
  rm -rf "$SERVER_DIR"
}
