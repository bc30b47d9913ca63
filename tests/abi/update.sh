#!/bin/sh
# Writes the golden layout of today's ABI version, after a change to the public headers that is meant.
# Say what changed in docs/abi-changes.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
golden=$here/$("$here/golden.sh")
"$here/layout.sh" >"$golden.new"
mv "$golden.new" "$golden"
echo "wrote $golden"
