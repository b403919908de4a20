#!/usr/bin/env bash
# venv.sh beam|test: makes .cache/venv with the Beam Python SDK, or with what
# Beam's own tests need besides, and prints its interpreter. LINTEL_PYTHON names an
# interpreter that has them already; then nothing is installed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
case ${1:-} in
  beam) packages=("apache-beam==$BEAM_VERSION") probe='import apache_beam' ;;
  test) packages=("apache-beam[gcp,test]==$BEAM_VERSION" jsonschema jinja2) probe='import apache_beam, pytest, jinja2' ;;
  *) die "usage: venv.sh beam|test" ;;
esac
if [ -n "${LINTEL_PYTHON:-}" ]; then
  "$LINTEL_PYTHON" -c "$probe" || die "LINTEL_PYTHON=$LINTEL_PYTHON lacks what this needs ($probe)"
  echo "$LINTEL_PYTHON"
  exit
fi
venv=$CACHE/venv stamp=$CACHE/venv/.$1-$BEAM_VERSION
if [ ! -e "$stamp" ]; then
  say "installing ${packages[*]} into ${venv#"$ROOT"/} (once; a minute or two)" >&2
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv" >&2 || { rm -rf "$venv"; exit 1; }
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}" >&2
  "$venv/bin/python" -c "$probe" 2>/dev/null || die "the installation in $venv does not work: $probe"
  touch "$stamp"
fi
echo "$venv/bin/python"
