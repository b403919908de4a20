#!/bin/sh
# The command of a PROCESS environment of Java: Beam's own boot program, JAVA_BOOT, which
# fetches the staged class path into the worker's folder.
TMPDIR=$PWD _JAVA_OPTIONS='-Xmx512m -XX:TieredStopAtLevel=1' exec "$JAVA_BOOT" "$@" --semi_persist_dir="$PWD"
