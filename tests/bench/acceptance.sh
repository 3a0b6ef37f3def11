#!/bin/sh
# acceptance.sh: how often each verifier of speculation takes a guess, beside the best possible. `make bench-acceptance` calls it.
#   TARGET DRAFT  a model and a draft of any vocabulary that is much the same     TEXT     what they read
#   TEMPS         temperatures (0.6 0.8 1)            FILTERS  of the sampler (--top-k 40 --top-p 0.95 --min-p 0.05); --open: of the target alone
#   PLACES        of the text (200)                  OUT      folder where acceptance.csv grows (bench)
# A row of the CSV: target,draft,temp,verifier,guesses,accepted,error,best,places. accepted: the share of places where the next
# token is one of the guesses, error: its standard error over places, best: what no verifier of guesses so drawn can pass.
set -u
tool=${TOOL:-build/release/acceptance} out=${OUT:-bench}
for file in "${TARGET:-}" "${DRAFT:-}" "${TEXT:-}"; do [ -f "$file" ] || { echo "acceptance: give files by TARGET, DRAFT and TEXT; no file: '$file'" >&2; exit 2; }; done
mkdir -p "$out" || exit 1
csv=$out/acceptance.csv
[ -s "$csv" ] || echo "target,draft,temp,verifier,guesses,accepted,error,best,places" > "$csv"
rows=$(mktemp) || exit 1
trap 'rm -f "$rows"' EXIT
for temp in ${TEMPS:-0.6 0.8 1}; do
    # shellcheck disable=SC2086
    "$tool" "$TARGET" "$DRAFT" "$TEXT" --temp "$temp" --places "${PLACES:-200}" ${FILTERS:-} > "$rows" || exit 1
    cat "$rows" >> "$csv"
    awk -F, -v temp="$temp" '
        { row = $4; if (!(row in seen)) { seen[row] = 1; name[++n] = row } cell[row, $5] = sprintf("%.3f of %.3f", $6, $8)
          if (!($5 in width)) { width[$5] = 1; at[++m] = $5 } if ($7 > error) error = $7; places = $9 }
        END {
            printf "\nTemperature %s: accepted, of the best, by guesses at a place; %d places, errors up to %.3f\n\n| verifier |", temp, places, error
            for (i = 1; i <= m; i++) printf " %s |", at[i]
            printf "\n|---|"
            for (i = 1; i <= m; i++) printf "---|"
            for (k = 1; k <= n; k++) { printf "\n| %s |", name[k]; for (i = 1; i <= m; i++) printf " %s |", cell[name[k], at[i]] }
            print ""
        }' "$rows"
done
