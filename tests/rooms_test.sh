#!/bin/sh
# The source tree keeps to its rooms, and rooms.sh notices each kind of fault.
. "$(dirname "$0")/support/tap.sh"
here=$(cd "$(dirname "$0")" && pwd)
expect "the tree keeps to its rooms" "$here/rooms.sh"

# A small tree without fault; each case below adds one file to it.
small_tree() {
    rm -rf "$tap_tmp/tree"
    mkdir -p "$tap_tmp/tree" && cd "$tap_tmp/tree" || exit 1
    mkdir -p sdk/include/sluice sdk/lib sdk/kernels/gemv core/include core/engine cli plugins/quant/alpha plugins/kvcache/beta
    touch sdk/include/sluice/sl.h sdk/lib/sl_error.h core/include/libsluice.h core/engine/engine.h
    touch plugins/quant/alpha/meson.build plugins/kvcache/beta/meson.build plugins/kvcache/beta/beta.h
    echo '#include "sluice/sl.h"' >sdk/kernels/gemv/gemv.h
    printf '#include "libsluice.h"\n#include <stdio.h>\n' >cli/main.c
    printf '#include "beta.h"\n#include "sl_error.h"\n' >plugins/kvcache/beta/beta.c
}
fault() { # name, expected text, file, contents
    small_tree
    printf '%b\n' "$4" >"$3"
    expect_failure "$1" "$2" "$here/rooms.sh" "$tap_tmp/tree"
}
small_tree
echo "x = custom_target('x', output: 'made.inc')" >core/meson.build
printf '#include "engine/made.inc"\n#include "../engine/engine.h"\n' >core/engine/x.c
expect "a small tree without fault" "$here/rooms.sh" "$tap_tmp/tree"
fault "plugin includes core" "plugins/quant/alpha/a.c:2: plugins must not include core/engine/engine.h" \
    plugins/quant/alpha/a.c '\n#include "engine/engine.h"'
fault "plugin includes kernels" "must not include sdk/kernels/gemv/gemv.h" plugins/quant/alpha/a.c '#include "gemv/gemv.h"'
fault "plugin includes another plugin" "must not include plugins/kvcache/beta/beta.h" \
    plugins/quant/alpha/a.c '#include "../../kvcache/beta/beta.h"'
fault "ABI header includes a helper" "sdk/include must not include sdk/lib/sl_error.h" \
    sdk/include/sluice/kv.h '# include "sl_error.h"'
fault "kernel includes core" "sdk/kernels must not include core/engine" sdk/kernels/gemv/gemv.c '#include "engine.h"'
fault "core includes a plugin" "core must not include plugins/kvcache/beta/beta.h" core/engine/x.c '#include "beta.h"'
fault "cli includes the core's inside" "cli must not include core/engine/engine.h" cli/run.c '#include "engine/engine.h"'
fault "an include that leads nowhere" "core/engine/x.c:1: includes nowhere.h" core/engine/x.c '#include "nowhere.h"'
fault "an include with the wrong folder" "core/engine/x.c:1: includes model/engine.h" core/engine/x.c '#include "model/engine.h"'
fault "core names a plugin" 'core/engine/x.c:1: names a plugin:' core/engine/x.c 'const char *id = "alpha";'
fault "cli names a plugin" 'cli/x.c:1: names a plugin:' cli/x.c 'use("kvcache.beta");'
fault "a remark on another line" 'cli/x.c:2: names a plugin:' cli/x.c '/* no plugin */\nuse("alpha");'
small_tree
echo 'const char *word = "alpha"; /* a letter; no plugin */' >cli/x.c
expect "a word that looks like a plugin" "$here/rooms.sh" "$tap_tmp/tree"
fault "two files of one name" "the same file name as" core/engine/beta.h ''
fault "an upper-case file name" "not lower case" core/engine/Big.c ''
fault "Python outside recipes" "core/x.py:1: Python" core/x.py ''
fault "a Python script without suffix" "cli/tool:1: Python" cli/tool '#!/usr/bin/env python3'
fault "something left over" "core/engine/x.c:1: left over" core/engine/x.c '/* TO''DO */'
fault "a path of one machine" "README.md:1: a path of one machine" README.md "see /ho""me/me/x"
cd "$here" && done_testing
