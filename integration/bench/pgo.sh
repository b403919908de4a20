#!/usr/bin/env bash
# pgo.sh OUTPUT [CASE ...]
# A CPU profile of the server over the bench's cases, for profile-guided builds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../scripts/lib.sh"

output=$1
shift
cases=("$@")
[ ${#cases[@]} -gt 0 ] || cases=(gbk,n=3000000 wordcount,mb=60 combine,n=3000000,k=100000 shuffle-chain,n=500000 \
  session,n=1000000 fixed,n=2000000 stateful,n=10000 stateful-bag,n=6000 timers,n=1000000,k=1000 \
  side-multimap,n=20000,m=5000 nexmark-q5,n=1000000 stream,secs=8,rate=10000)

mkdir -p "$CACHE/bin"
(cd "$here/pipelines" && go build -ldflags="-s -w" -o "$CACHE/bin/bench" .)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/lintel-pgo.XXXXXX")
trap 'stop_lintel; rm -rf "$scratch"' EXIT
for case in "${cases[@]}"; do
  say "$case"
  pipeline=${case%%,*}
  IFS=, read -ra flags <<<"${case#"$pipeline"?}"
  start_lintel --cpu-profile "$scratch/$pipeline.pprof"
  "$CACHE/bin/bench" --endpoint="$JOB_ENDPOINT" --environment_type=LOOPBACK --data="$CACHE/data" \
    --pipeline="$pipeline" "${flags[@]/#/--}" >"$scratch/answer" || die "$case failed: $(cat "$scratch/answer")"
  stop_lintel
done
go tool pprof -proto "$scratch"/*.pprof >"$output" 2>"$scratch/pprof.log" || die "$(cat "$scratch/pprof.log")"
# The path of the program is this machine's, and nobody's business.
python3 - "$output" "$LINTEL" <<'PY'
import gzip, sys

def entry(text):  # of the string table: field 6 of profile.proto
  b, n = bytearray([6 << 3 | 2]), len(text)
  while n >= 128:
    b.append(n & 127 | 128)
    n >>= 7
  return bytes(b) + bytes([n]) + text

path, program = sys.argv[1:]
with gzip.open(path) as f:
  profile = f.read()
with open(path, 'wb') as f:
  f.write(gzip.compress(profile.replace(entry(program.encode()), entry(b'lintel')), mtime=0))
PY
say "$(du -h "$output")"
