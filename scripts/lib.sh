# Shared by the scripts here: sourced, never run. The caller has set -euo pipefail.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${LINTEL_CACHE:-$ROOT/.cache}
LINTEL=${LINTEL_BINARY:-$ROOT/bin/lintel}
BEAM_VERSION=2.77.0

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# listening PORT: does somebody listen there?
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port prints a port of 127.0.0.1 that nobody listens on.
free_port() {
  local p
  for _ in $(seq 100); do
    p=$((20000 + RANDOM % 12000))
    listening "$p" || { echo "$p"; return; }
  done
  die "no free port found"
}

# start_lintel runs `lintel dev` on free ports with its own data folder and waits
# until it listens. It sets JOB_PORT, HTTP_PORT, LINTEL_PID, LINTEL_DIR.
start_lintel() {
  LINTEL_DIR=$(mktemp -d "${TMPDIR:-/tmp}/lintel.XXXXXX")
  JOB_PORT=$(free_port) HTTP_PORT=$(free_port)
  "$LINTEL" dev --job-port "$JOB_PORT" --http-port "$HTTP_PORT" --data-dir "$LINTEL_DIR/data" "$@" \
    >"$LINTEL_DIR/server.log" 2>&1 &
  LINTEL_PID=$!
  for _ in $(seq 200); do
    if listening "$JOB_PORT" && listening "$HTTP_PORT"; then return; fi
    kill -0 "$LINTEL_PID" 2>/dev/null || break
    sleep 0.05
  done
  cat "$LINTEL_DIR/server.log" >&2
  die "lintel dev did not start"
}

# stop_lintel ends the server, within 12 s at most, and removes its data.
# KEEP_LOG=FILE keeps the server's log.
stop_lintel() {
  [ -n "${LINTEL_PID:-}" ] || return 0
  kill -TERM "$LINTEL_PID" 2>/dev/null || true
  for _ in $(seq 120); do
    kill -0 "$LINTEL_PID" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$LINTEL_PID" 2>/dev/null || true
  wait "$LINTEL_PID" 2>/dev/null || true
  LINTEL_PID=
  [ -z "${KEEP_LOG:-}" ] || cp "$LINTEL_DIR/server.log" "$KEEP_LOG"
  rm -rf "$LINTEL_DIR"
}
