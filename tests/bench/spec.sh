#!/bin/sh
# What guessing ahead is worth: every setting on every kind of text, plain and with guesses in turns, prompt by prompt (./run --bench-texts).
#   MODEL=target.gguf [DRAFT=draft.gguf] make bench-spec
# SETTINGS: names of --spec, with :N the fixed length N instead of the measured one (tree:N: N guesses a tree). TEMPS, N tokens a prompt,
# REPEATS of each, PROMPTS of a kind (0: all), TEXTS a folder of kinds, THREADS; CHAT= (empty) where the model has no template. Rows go to OUT (bench/spec.csv); the table is printed.
set -eu
RUN=${RUN:-./run} TEXTS=${TEXTS:-tests/bench/prompts} OUT=${OUT:-bench/spec.csv}
N=${N:-128} REPEATS=${REPEATS:-3} PROMPTS=${PROMPTS:-0} TEMPS=${TEMPS:-0 0.8} THREADS=${THREADS:-0} CHAT=${CHAT---chat}
: "${MODEL:?MODEL=target.gguf is the model to speed up}"
if [ -n "${DRAFT:-}" ]; then default="auto ngram model model:2 model:4 model:8 staged tree tree:24"; else default="auto ngram ngram:2 ngram:4 ngram:8"; fi
SETTINGS=${SETTINGS:-$default}
mkdir -p "$(dirname "$OUT")"
[ -s "$OUT" ] || echo "model,draft,temp,setting,kind,prompts,tokens,repeats,plain_tok_per_s,tok_per_s,ratio,least,most,tokens_a_pass,held,guesses,differs,date" >"$OUT"
number() { printf '%s' "$1" | sed -n "s/.*\"$2\":\([^,}]*\).*/\1/p"; }
for temp in $TEMPS; do
    for setting in $SETTINGS; do
        name=${setting%%:*} fixed= draft=${DRAFT:+--draft $DRAFT}
        case $name in none | ngram) draft= ;; esac
        case $setting in
        tree:*) fixed="--no-spec-adapt --spec-nodes ${setting#*:}" ;;
        *:*) fixed="--no-spec-adapt --draft-max ${setting#*:}" ;;
        esac
        # shellcheck disable=SC2086
        lines=$("$RUN" -m "$MODEL" $draft --spec "$name" $fixed --bench-texts "$TEXTS" $CHAT --temp "$temp" -s 1 -n "$N" \
            --repeats "$REPEATS" --chunks "$PROMPTS" -t "$THREADS" --json) || exit 1
        echo "$lines" | grep '"prompts"' | while read -r line; do
            kind=$(number "$line" kind | tr -d '"')
            row="$(basename "$MODEL"),$(basename "${DRAFT:--}"),$temp,$setting,${kind%.txt},$(number "$line" prompts),$N,$REPEATS"
            for key in plain_tok_per_s tok_per_s ratio least most tokens_a_pass; do row="$row,$(printf '%.3f' "$(number "$line" $key)")"; done
            row="$row,$(number "$line" held),$(number "$line" guesses),$(number "$line" differs),$(date -u +%Y-%m-%dT%H:%M:%S)"
            echo "$row" >>"$OUT"
            printf '%s temp %-4s %-9s %-8s %sx (%s..%s), %s of %s guesses held, differs: %s\n' "$(basename "$MODEL")" "$temp" "$setting" "${kind%.txt}" \
                "$(echo "$row" | cut -d, -f11)" "$(echo "$row" | cut -d, -f12)" "$(echo "$row" | cut -d, -f13)" "$(echo "$row" | cut -d, -f15)" \
                "$(echo "$row" | cut -d, -f16)" "$(echo "$row" | cut -d, -f17)"
        done
    done
done
