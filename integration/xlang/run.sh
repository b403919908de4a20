#!/usr/bin/env bash
# run.sh [--quick] [pytest's options]
# Pipelines of several SDKs against a `lintel dev` of their own; see README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../scripts/lib.sh"

options=()
while [ $# -gt 0 ]; do
  case $1 in
    --quick)
      # Two or three minutes of it, once Maven has fetched what it needs.
      t=test_transforms.py
      options+=("$t::test_beams_own_with_java[multi_input_output_with_sideinput]" "$t::test_keys_of_both_sdks_group"
        "$t::test_missing_environment_is_refused" "$t::test_environment_replaced" test_sql.py::test_aggregate
        "test_kafka.py::test_read_on[drain]" "test_exactly_once.py::test_killed_servers[finalised]" "test_go.py::test_with_python[service]" test_yaml.py::test_sql)
      shift ;;
    *) options+=("$1"); shift ;;
  esac
done

command -v mvn >/dev/null && command -v javac >/dev/null || die "needs Maven and a JDK of version 11 or later (make setup-java)"
export XLANG_CACHE=$CACHE/xlang XLANG_OUT=$CACHE/results/xlang LINTEL
# made NAME FOLDER POM runs Maven if what it made is older than its sources.
made() {
  [ -e "$2/made" ] && [ -z "$(find "${3%/*}" -newer "$2/made" \( -name '*.java' -o -name pom.xml -o -path '*services*' \))" ] && return
  say "fetching $1"
  rm -rf "$2"
  mvn -B -q -Dstyle.color=never -f "$3" "-Dxlang.build=$2" package
  touch "$2/made"
}
made "Beam's Java SDK" "$XLANG_CACHE/java" "$here/pom.xml"
made "a Kafka broker" "$XLANG_CACHE/kafka" "$here/kafka/pom.xml"

python=$("$ROOT/scripts/venv.sh" test)
export JAVA_BOOT=$CACHE/bin/java-boot
[ -x "$JAVA_BOOT" ] || (cd "$ROOT/examples/go" && go build -o "$JAVA_BOOT" github.com/apache/beam/sdks/v2/java/container)

export GO_EXAMPLE=$CACHE/bin/xlang-go
(cd "$ROOT/examples/go" && go build -o "$GO_EXAMPLE" ./xlang)

# Beam's Go tests, where integration/go keeps them too.
export GO_TESTS=$CACHE/gosdk-$BEAM_VERSION
mkdir -p "$GO_TESTS"
for package in test/integration/{xlang,transforms/xlang/dataframe,io/xlang/kafka}; do
  binary=$GO_TESTS/${package//\//_}.test
  [ -s "$binary" ] || (cd "$here/../go" && go test -vet=off -c -o "$binary" "github.com/apache/beam/sdks/v2/go/$package")
done

cd "$here"
say "logs: $XLANG_OUT"
exec "$python" -m pytest -c pytest.ini -q --junitxml "$XLANG_OUT.xml" ${options[@]+"${options[@]}"}
