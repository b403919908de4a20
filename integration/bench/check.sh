#!/usr/bin/env bash
# check.sh [BASE] [check.py's options]
# This tree's server against that of a commit (HEAD~1): see README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../scripts/lib.sh"

base=HEAD~1
case ${1:-} in
  --* | '') ;;
  *) base=$1; shift ;;
esac

# server SOURCE OUTPUT builds the server of a source tree as make build does: alike, so that the same code makes the same file.
server() {
  (cd "$1" && CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags disable_grpc_modules -ldflags '-s -w' -o "$2" ./cmd/lintel)
}

commit=$(git -C "$ROOT" rev-parse --verify --quiet "$base^{commit}") || {
  say "no commit $base here, as in a shallow clone: nothing to compare with"
  case " $* " in *" --report "*) exit 0 ;; *) exit 1 ;; esac
}
builds=$CACHE/bench-check
mkdir -p "$builds"
if [ ! -x "$builds/$commit" ]; then
  source=$(mktemp -d "${TMPDIR:-/tmp}/lintel-base.XXXXXX")
  trap 'rm -rf "$source"' EXIT
  git -C "$ROOT" archive "$commit" | tar -x -C "$source"
  server "$source" "$builds/$commit"
fi
server "$ROOT" "$builds/new"
say "base: $(git -C "$ROOT" log -1 --format='%h %s' "$commit")"
if cmp -s "$builds/$commit" "$builds/new"; then
  say "the same program: nothing to measure"
  exit 0
fi
mkdir -p "$CACHE/bin"
(cd "$here/pipelines" && go build -ldflags="-s -w" -o "$CACHE/bin/bench" .)
LINTEL_CACHE=$CACHE python3 "$here/check.py" --base "$builds/$commit" --new "$builds/new" "$@"
