#!/usr/bin/env bash
# run.sh [--set bounded|smoke|medium|checkpoints] [--rival prism|none] [bench.py's options]
# Lintel beside a rival on the same pipelines, paired; see README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../scripts/lib.sh"

set=bounded rival=prism options=()
while [ $# -gt 0 ]; do
  case $1 in
    --set) set=$2; shift 2 ;;
    --rival) rival=$2; shift 2 ;;
    --case) set=; options+=("$1" "$2"); shift 2 ;;
    *) options+=("$1"); shift ;;
  esac
done
[ -z "$set" ] || options+=(--set "$set")
[ "$rival" = none ] || options+=(--server "$rival=auto")

mkdir -p "$CACHE/bin"
(cd "$here/pipelines" && go build -ldflags="-s -w" -o "$CACHE/bin/bench" .)
[ "$rival" = none ] || [ -x "$CACHE/bin/prism" ] ||
  (cd "$here/pipelines" && go build -o "$CACHE/bin/prism" github.com/apache/beam/sdks/v2/go/cmd/prism)

case "${options[*]}" in
  *java-*)
    command -v mvn >/dev/null && command -v javac >/dev/null || die "needs Maven and a JDK of version 11 or later (make setup-java)"
    build=$CACHE/bench-java
    if [ -n "$(find "$here/java" -newer "$build/staged.txt" 2>&1)" ]; then
      say "compiling the pipelines of the Java SDK"
      mvn -B -q -Dstyle.color=never -f "$here/java/pom.xml" "-Dbench.build=$build" \
        compile dependency:build-classpath "-Dmdep.outputFile=$build/classpath"
      echo lintel >"$build/staged.txt"
    fi ;;
esac
case "${options[*]}" in
  *python-*)
    SDK_PYTHON=$("$ROOT/scripts/venv.sh" beam)
    SDK_BOOT=$CACHE/bin/python-boot
    export SDK_PYTHON SDK_BOOT
    [ -x "$SDK_BOOT" ] || (cd "$ROOT/examples/go" && go build -o "$SDK_BOOT" github.com/apache/beam/sdks/v2/python/container) ;;
esac

scratch=$(mktemp -d "${TMPDIR:-/tmp}/lintel-bench.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
LINTEL_CACHE=$CACHE python3 "$here/bench.py" --fresh \
  --server "lintel=cmd:$LINTEL dev --job-port {port} --http-port 0 --data-dir $scratch/{server}" "${options[@]}"
