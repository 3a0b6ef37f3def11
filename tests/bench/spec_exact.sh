#!/bin/sh
# spec_exact.sh: is a text made with guesses the text made without, byte for byte? `make spec-exact` calls it.
#   MODEL     target (data/stories-1m.gguf)               DRAFTERS  of --spec, NAME or NAME:DRAFT.gguf (ngram)
#   FORMATS   it is quantized to (F32 Q8_0 Q4_0 Q4_K), -: the file as it is
#   TEMPS     (0 0.7 1 1.5)                               FILTERS   of default off penalties mirostat (all)
#   THREADS   (1 2)                                       PROMPTS   of tests/bench/prompts, by turns of each kind (50)
#   N         tokens of a text (48)                       OPTIONS   of runs with guesses (--no-spec-adapt: guess always)
#   PLAN=1    say how many runs and how long, and stop
# One plain run for each text, with the first of THREADS; every other run must print the same, so that threads are checked too.
# The seed is the number of the prompt. A line for each cell says how many guesses were judged and how many held: where there
# were none, nothing was shown. Exit code 1 when a text differs or a run fails.
set -u
run=${RUN:-./run} model=${MODEL:-data/stories-1m.gguf} drafters=${DRAFTERS:-ngram}
formats=${FORMATS:-F32 Q8_0 Q4_0 Q4_K} temps=${TEMPS:-0 0.7 1 1.5} filters=${FILTERS:-default off penalties mirostat}
threads=${THREADS:-1 2} prompts=${PROMPTS:-50} n=${N:-48} options=${OPTIONS---no-spec-adapt}
refuse() { echo "spec-exact: $*" >&2; exit 2; }

[ -r "$model" ] || refuse "MODEL: there is no file $model"
for d in $drafters; do
    [ "${d#*:}" = "$d" ] || [ -r "${d#*:}" ] || refuse "DRAFTERS: there is no file ${d#*:}"
done
case $prompts$n in *[!0-9]*) refuse "PROMPTS and N are numbers" ;; esac
options_of() { # filter
    case $1 in
    default) ;;
    off) echo "--top-k 0 --top-p 1 --min-p 0" ;;
    penalties) echo "--repeat-penalty 1.1 --presence-penalty 0.3 --frequency-penalty 0.2" ;;
    mirostat) echo "--mirostat 2" ;;
    *) return 1 ;;
    esac
}
for f in $filters; do options_of "$f" > /dev/null || refuse "FILTERS: $f is none of default, off, penalties, mirostat"; done

work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# Prompt 1 of code, 1 of chat, 1 of prose, 2 of code, ...
prompts=$(awk -v to="$work/prompt" -v most="$prompts" '
    function flush_block() { at = 3 * k++ + kind; if (at <= most) { printf "%s", text > (to "." at); close(to "." at); made++ } text = ""; lines = 0 }
    FNR == 1 { if (kind) flush_block(); kind++; k = 0 }
    /^%%$/ { flush_block(); next }
    { text = lines++ ? text "\n" $0 : $0 }
    END { flush_block(); print made }' tests/bench/prompts/code.txt tests/bench/prompts/chat.txt tests/bench/prompts/prose.txt)
[ "$prompts" -gt 0 ] || refuse "PROMPTS must be above 0"
kind_of() { # number of a prompt
    case $(($1 % 3)) in 1) echo "code" ;; 2) echo "chat" ;; 0) echo "prose" ;; esac
    echo "$((($1 + 2) / 3))"
}

# One text: model prompt threads options...; standard output and the words beside it in $work/out and $work/err.
text() {
    m=$1 k=$2 t=$3
    shift 3
    "$run" -m "$m" -f "$work/prompt.$k" -n "$n" -s "$k" -t "$t" "$@" > "$work/out" 2> "$work/err"
}

count() { echo $#; }
pairs=$(($(count $drafters) * $(count $threads)))
cells=$(($(count $formats) * $(count $temps) * $(count $filters)))
first=${threads%% *}
if [ -n "${PLAN:-}" ]; then
    began=$(date +%s.%N) k=0
    while [ $k -lt 3 ] && [ $k -lt "$prompts" ]; do
        k=$((k + 1))
        text "$model" $k "$first" --spec none || refuse "$(tail -1 "$work/err")"
    done
    echo "$began $(date +%s.%N) $k $((cells * prompts * (1 + pairs)))" |
        awk '{ s = ($2 - $1) / $3; printf "%d runs, %.2f s each where guesses cost nothing: about %.1f hours\n", $4, s, $4 * s / 3600 }'
    exit 0
fi

texts=0 bad=0
wrong() { # what: the cell is in $cell, the prompt in $k
    bad=$((bad + 1)) cell_bad=$((cell_bad + 1))
    echo "  DIFFERS: $cell, prompt $k," $(kind_of $k)": $1"
}
compare_all() { # drafter threads, options of the sampler
    name=${1%%:*} file=${1#"$name"} t=$2
    shift 2
    k=0 cell_bad=0
    : > "$work/told"
    while [ $k -lt "$prompts" ]; do
        k=$((k + 1)) texts=$((texts + 1))
        if ! text "$file_now" $k "$t" "$@" --spec "$name" ${file:+--draft "${file#:}"} $options; then
            wrong "$(tail -1 "$work/err")"
        elif ! cmp "$work/out" "$work/plain.$k" > "$work/cmp" 2>&1; then
            wrong "$(sed 's/.*differ: //; s/^cmp: //' "$work/cmp")"
        fi
        cat "$work/err" >> "$work/told"
    done
    awk -v cell="$cell" -v all="$prompts" -v bad=$cell_bad '
        match($0, /[0-9]+ of [0-9]+ guesses held/) { split(substr($0, RSTART), w, " "); held += w[1]; judged += w[3] }
        END { printf "%-44s %d of %d texts equal, %d of %d guesses held%s\n", cell, all - bad, all, held, judged, judged ? "" : ": nothing was shown" }' "$work/told"
}

for format in $formats; do
    file_now=$model
    if [ "$format" != - ]; then
        file_now=$work/$format.gguf
        "$run" -m "$model" --quantize "$format" -o "$file_now" > "$work/out" 2> "$work/err" || refuse "--quantize $format: $(tail -1 "$work/err")"
    fi
    for temp in $temps; do
        for filter in $filters; do
            set -- --temp "$temp" $(options_of "$filter")
            k=0
            while [ $k -lt "$prompts" ]; do
                k=$((k + 1))
                text "$file_now" $k "$first" "$@" --spec none || refuse "a plain run failed: $(tail -1 "$work/err")"
                mv "$work/out" "$work/plain.$k"
            done
            for drafter in $drafters; do
                for t in $threads; do
                    cell="$format temp $temp $filter ${drafter%%:*} threads $t"
                    compare_all "$drafter" "$t" "$@"
                done
            done
        done
    done
    [ "$format" = - ] || rm -f "$file_now"
done
echo "$texts texts with guesses, $bad of them differ from plain decoding"
[ $bad = 0 ]
