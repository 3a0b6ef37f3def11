#!/bin/sh
# tidy.sh: taste that a machine can check. Run from the root as `make tidy`.
#   layers   includes only point down (design: core < backend, formats < cpu, model, tokenizer < gen, learn < programs)
#   length   functions over 70 lines are listed in tests/long_functions.txt; the list may shrink, not grow
#   files    no C file over 900 lines
#   words    no note to self left behind, no tabs, no trailing blanks
set -u
bad=0
say() { echo "tidy: $*"; bad=1; }

# folder: what it may include from the project
allowed() {
    case $1 in
    core) echo core ;;
    formats) echo "core formats" ;;
    cpu | cuda) echo "core backend.h $1" ;;
    tokenizer) echo "core formats tokenizer" ;;
    model) echo "core backend.h formats model" ;;
    gen | learn) echo "core backend.h formats tokenizer model $1" ;;
    esac
}
for folder in core formats cpu cuda tokenizer model gen learn; do
    [ -d "$folder" ] || continue
    ok=$(allowed "$folder")
    # The one word of the tests that a module may say: a processor in the place of a GPU.
    grep -HnE '^#include "' "$folder"/*.[ch] "$folder"/*.cu "$folder"/*.cuh 2>/dev/null | grep -v 'cuda.cuh:.*"tests/cuda_on_cpu.h"' | while IFS= read -r line; do
        target=$(printf '%s\n' "$line" | sed 's/.*#include "\([^"]*\)".*/\1/')
        module=${target%%/*}
        [ "$module" = "$target" ] && [ "$target" != backend.h ] && [ -f "$folder/$target" ] && module=$folder
        case " $ok " in *" $module "*) ;; *) echo "$line: $folder may include only: $ok" ;; esac
    done > "${TMPDIR:-/tmp}/tidy.$$"
    while IFS= read -r line; do say "$line"; done < "${TMPDIR:-/tmp}/tidy.$$"
done
rm -f "${TMPDIR:-/tmp}/tidy.$$"

files=$(git ls-files '*.c' '*.h' '*.cu' '*.cuh' | grep -v '^data/stories_\|^tokenizer/unicode')
now=$(for f in $files; do
    awk -v file="$f" '
        /^[a-z].*[)] [{]$/ || /^[a-z][^;=]*[)][{]$/ { start = NR; name = $0; sub(/[(].*/, "", name); sub(/.*[ *]/, "", name) }
        /^ .*[)] [{]$/ && pending { start = NR; pending = 0 }
        /^}/ { if (start && NR - start > 70) print file ":" name; start = 0 }' "$f"
done | sort)
for entry in $now; do
    grep -qxF "$entry" tests/long_functions.txt || say "$entry is longer than 70 lines and not in tests/long_functions.txt"
done
for entry in $(cat tests/long_functions.txt); do
    printf '%s\n' "$now" | grep -qxF "$entry" || say "$entry is short now: take it out of tests/long_functions.txt"
done
for f in $files; do
    lines=$(wc -l < "$f")
    [ "$lines" -le 900 ] || case $f in tests/*|data/*) ;; *) say "$f has $lines lines: split it by noun" ;; esac
done
grep -nwE 'TODO|FIXME|XXX' $files && say "a note to self was left behind"
grep -nP '\t| +$' $files && say "tabs or trailing blanks"
[ $bad = 0 ] && echo "tidy: fine"
exit $bad
