#!/usr/bin/env bash
# fuzz.sh TIME [PACKAGE…]: runs each fuzz target of the packages (default: all) for that long. What
# it finds lies in the package's testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
time=$1
shift
failed=()
while read -r file name; do
  package=./$(dirname "$file")
  printf '== %s %s\n' "$package" "$name"
  go test "$package" -run '^$' -fuzz "^$name\$" -fuzztime "$time" || failed+=("$package $name")
done < <(grep -r --include='*_test.go' -oE '^func Fuzz[A-Za-z0-9_]+' "${@:-.}" | sed -E 's|^\./||; s|:func | |' | sort)
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
