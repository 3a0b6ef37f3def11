#!/bin/sh
# fuzz.sh: coverage-guided fuzzing of everything that reads what others wrote. Run from the root as `make fuzz`.
#   FUZZ          targets, all when empty: each tests/fuzz/fuzz_<target>.c is one, and begins with what it promises
#   FUZZ_SECONDS  for each of them (60)
# Inputs that were found stay in build/fuzz/corpus/<target> for the next time; tests/fuzz/seeds/<target> is where it begins. A
# finding ends the run with exit code 1, its input is build/fuzz/found-<target>-*: `build/fuzz/fuzz_<target> FILE` shows it again.
set -u
B=build/fuzz
if ! echo 'int LLVMFuzzerTestOneInput(const char *p, long n) { return p && n < 0; }' |
    clang -x c -fsanitize=fuzzer - -o "${TMPDIR:-/tmp}/fuzz.$$" 2>/dev/null; then
    echo "fuzz: this needs clang with libFuzzer (Debian: apt-get install clang libclang-rt-14-dev)" >&2
    exit 1
fi
rm -f "${TMPDIR:-/tmp}/fuzz.$$"

all=$(ls tests/fuzz/fuzz_*.c | sed 's/.*fuzz_//; s/\.c$//')
for t in ${FUZZ:-$all}; do
    [ -f "tests/fuzz/fuzz_$t.c" ] || { echo "fuzz: no target $t; there are" $all >&2; exit 1; }
    make --no-print-directory -s CC=clang CONFIG=fuzz "$B/fuzz_$t" || exit 1
done

for t in ${FUZZ:-$all}; do
    most=4096 kind= # most bytes of an input: large ones are slow and say little more; whose words it is made of
    case $t in
    model) most=32768 kind=gguf ;;
    gguf | llama2c) most=16384 ;;
    hf | safetensors | config) most=16384 kind=hf ;;
    corpus | log | tokenizer*) most=16384 kind=json ;;
    esac
    dict=
    for words in $t $kind; do
        [ -f "tests/fuzz/$words.dict" ] && dict=-dict=tests/fuzz/$words.dict
    done
    mkdir -p "$B/corpus/$t"
    [ "$t" = model ] && cp -n tests/golden/family_*.gguf "$B/corpus/$t"
    case $t in tokenizer*) cp -n tests/golden/pretok_*.json "$B/corpus/$t" ;; esac
    seeds=
    [ -d "tests/fuzz/seeds/$t" ] && seeds=tests/fuzz/seeds/$t
    echo "fuzz: $t for ${FUZZ_SECONDS:-60} s"
    nice "$B/fuzz_$t" -max_len=$most -timeout=5 -rss_limit_mb=1024 -malloc_limit_mb=512 -use_value_profile=1 \
        -max_total_time="${FUZZ_SECONDS:-60}" -print_final_stats=1 -artifact_prefix="$B/found-$t-" $dict "$B/corpus/$t" $seeds \
        > "$B/$t.log" 2>&1 || { tail -n 40 "$B/$t.log"; echo "fuzz: $t found something, see above and $B/$t.log"; exit 1; }
    grep -hE 'cov:.*(DONE)|stat::(number_of_executed|average_exec)' "$B/$t.log"
done
