#!/usr/bin/env bash
# with-lintel.sh COMMAND...: runs the command while a `lintel dev` of its own is up.
# The command finds the job endpoint in JOB_ENDPOINT and the server's process in
# LINTEL_PID; the server is stopped at the end, whatever the command did.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
trap stop_lintel EXIT
trap 'exit 130' INT TERM
start_lintel
export JOB_ENDPOINT=127.0.0.1:$JOB_PORT LINTEL_PID
"$@"
