#!/bin/sh
# The command of a PROCESS environment: Beam's own Python boot binary, in the tests'
# virtual environment and with a scratch folder of its own. run.sh gives SDK_BOOT, the
# binary, and SDK_PYTHON, the interpreter, to the job server, whose child this is.
HERE=$(cd "$(dirname "$0")" && pwd)
PATH=$(dirname "$SDK_PYTHON"):$PATH
PYTHONPATH=$HERE
RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
export PATH PYTHONPATH RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT
exec "$SDK_BOOT" "$@" --semi_persist_dir="$(mktemp -d "${TMPDIR:-/tmp}/sdk_worker.XXXXXX")"
