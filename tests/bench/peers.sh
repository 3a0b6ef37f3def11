#!/bin/sh
# peers.sh: ./run beside other programs on the same files, run by run. `make bench PEERS="..." MODELS="..."` calls it.
#   MODELS  GGUF files                                         PEERS    programs with the options of llama-bench, PATH or PATH:NAME
#   P, N    tokens of the prompt, generated (512, 128; 0: not) DEPTH    tokens that are in the cache before (0)
#   CPU     of ours: --cpu LEVEL (the best)                    THREADS  of all programs (those that ./run takes)
#   PAIRS   runs of each, by turns: A B A B (5)                REPEATS  of a peer in a run, the median counts (3)
#   OUT     where results.csv grows, and charts (bench)        BUDGET   seconds: a file is not begun after them (0: no end)
# Speeds of one moment are chance on a machine that is shared: what counts is the ratio within a pair and the median over
# pairs. A run of ours is the median of three. A peer that fails is told in a line and left out for that file.
set -u
run=${RUN:-./run} models=${MODELS:-data/stories-1m.gguf} peers=${PEERS:-}
p=${P:-512} n=${N:-128} pairs=${PAIRS:-5} out=${OUT:-bench} chart=${CHART:-build/release/chart}
depth=${DEPTH:-0} cpu=${CPU:-} repeats=${REPEATS:-3} budget=${BUDGET:-0}
refuse() { echo "bench: $*" >&2; exit 2; }

for model in $models; do [ -r "$model" ] || refuse "MODELS: there is no file $model"; done
for peer in $peers; do
    command -v "${peer%%:*}" >/dev/null 2>&1 || refuse "PEERS: there is no program ${peer%%:*}; give the path of a llama-bench, or PATH:NAME"
done
case $p$n$pairs$depth$repeats$budget in *[!0-9]*) refuse "P, N, PAIRS, DEPTH, REPEATS and BUDGET are numbers" ;; esac
[ $((p + n)) -gt 0 ] && [ "$pairs" -gt 0 ] && [ "$repeats" -gt 0 ] || refuse "P or N, PAIRS and REPEATS must be above 0"
threads=${THREADS:-$("$run" --version | sed 's/.*cpu: \([0-9]*\) thread.*/\1/')}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
date=$(date +%Y-%m-%dT%H:%M:%S)
machine=$(awk -F': ' '/^model name/ { gsub(/[,"]/, "", $2); print $2; exit }' /proc/cpuinfo 2>/dev/null || uname -m)

# Each prints "PROMPT GENERATION SHARE SHARE", tokens per second and ours of the ceiling (- where it is not known or asked).
ours() { # model
    "$run" -m "$1" --bench --json --bench-prompt "$p" --bench-new "$n" -d "$depth" -t "$threads" \
        ${cpu:+--cpu "$cpu"} --repeats 3 2>"$work/err" >"$work/ours" || return 1
    awk 'function of(key) { match($0, "\"" key "\":[-+.e0-9]+"); return substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) }
         function or_none(x) { return x == "" ? "-" : x }
         { k = /"what":"generation"/; speed[k] = of("tokens_per_second"); share[k] = of("share") }
         END { if (NR < 1) exit 1; print or_none(speed[0]), or_none(speed[1]), or_none(share[0]), or_none(share[1]) }' "$work/ours"
}
peer_of() { # program model
    # a shell of its own, so that its word about a crash goes to the file too
    set -- "$1" -m "$2" -p "$p" -n "$n" -t "$threads" -r "$repeats" -o json
    [ "$depth" = 0 ] || set -- "$@" -d "$depth"
    sh -c '"$@"' sh "$@" >"$work/peer" 2>"$work/err" || return 1
    awk '/"n_gen"/ { gsub(/[^0-9]/, "", $2); made = $2 }
         /"samples_ts"/ {
             gsub(/.*\[|\].*|,/, " "); k = split($0, x, " ")
             for (i = 2; i <= k; i++) for (j = i; j > 1 && x[j] + 0 < x[j - 1] + 0; j--) { t = x[j]; x[j] = x[j - 1]; x[j - 1] = t }
             speed[made > 0] = x[int(k / 2) + 1]
         }
         END { if (!(0 in speed) && !(1 in speed)) exit 1; print 0 in speed ? speed[0] : "-", 1 in speed ? speed[1] : "-", "-", "-" }' "$work/peer"
}
why() { grep . "$work/err" | tail -1 | cut -c1-120; } # the last words of what failed

row() { # model pair name speeds...: a row for the prompt and one for generation, of those that were measured
    [ "$4" = - ] || echo "$1,prompt,$p,$threads,$2,$3,$4,$6,$depth,${cpu:-best},$date,$machine"
    [ "$5" = - ] || echo "$1,generation,$n,$threads,$2,$3,$5,$7,$depth,${cpu:-best},$date,$machine"
}
mkdir -p "$out" || exit 1
csv=$out/results.csv
[ -s "$csv" ] || echo "model,what,tokens,threads,pair,program,tokens_per_second,share_of_ceiling,depth,cpu,date,machine" > "$csv"
before=$(wc -l < "$csv") began=$(date +%s)
for model in $models; do
    name=$(basename "$model")
    [ "$budget" = 0 ] || [ $(($(date +%s) - began)) -lt "$budget" ] || { echo "bench: $name is left out, the time of BUDGET is over" >&2; continue; }
    for peer in ${peers:--}; do
        path=${peer%%:*} label=${peer#*:}
        [ "$label" = "$peer" ] && label=$(basename "$path")
        pair=0
        while [ $pair -lt "$pairs" ]; do
            pair=$((pair + 1))
            a=$(ours "$model") || { echo "bench: ./run failed on $name: $(why)" >&2; exit 1; }
            if [ "$peer" = - ]; then
                row "$name" $pair ours $a >> "$csv"
                echo "$name pair $pair: $a" | awk '{ printf "%s %s %s prompt %.1f, generation %.1f tokens/s\n", $1, $2, $3, $4, $5 }'
                continue
            fi
            b=$(peer_of "$path" "$model") || { echo "bench: $label failed on $name, left out: $(why)" >&2; break; }
            { row "$name" $pair "ours beside $label" $a; row "$name" $pair "$label" $b; } >> "$csv"
            echo "$name $label $pair $a $b" | awk '{
                printf "%s, pair %d", $1, $3
                if ($8 > 0) printf "; prompt %.1f, %s %.1f: %.2f x", $4, $2, $8, $4 / $8
                if ($9 > 0) printf "; generation %.1f, %s %.1f: %.2f x", $5, $2, $9, $5 / $9
                print "" }'
        done
    done
done

# Medians of the ratios, or of the speeds where there is nobody to compare with; of this call's rows.
awk -F, -v before="$before" -v depth="$depth" -v cpu="$cpu" '
    NR <= before { next }
    { key = $1 "," $2 "," $3 }
    $6 == "ours" { add(key " tokens/s", $7); next }
    $6 ~ /^ours beside / { mine[key, substr($6, 13), $5] = $7; next }
    (key, $6, $5) in mine { add(key " times " $6, mine[key, $6, $5] / $7) }
    function add(k, x, i) {
        if (!(k in count)) order[++keys] = k
        for (i = ++count[k]; i > 1 && value[k, i - 1] > x; i--) value[k, i] = value[k, i - 1]
        value[k, i] = x
    }
    END {
        for (i = 1; i <= keys; i++) {
            k = order[i]; c = count[k]; split(k, part, ",")
            rest = part[3]; sub(/^[0-9]+ /, "", rest); tokens = part[3] + 0
            printf "median: %s, %s of %d%s%s: %.2f %s (%.2f..%.2f, %d pairs)\n", part[1], part[2], tokens, (depth > 0 ? " behind " depth : ""),
                   (cpu != "" ? " on " cpu : ""),
                   (value[k, int((c + 1) / 2)] + value[k, int(c / 2) + 1]) / 2, rest, value[k, 1], value[k, c], c
        }
    }' "$csv"
for name in $(awk -F, -v before="$before" 'NR > before { print $1 "," $2 }' "$csv" | sort -u); do
    [ -x "$chart" ] || break
    { head -1 "$csv"; tail -n +$((before + 1)) "$csv" | grep "^$name,"; } |
        "$chart" "$name: tokens/s by pair" pair tokens_per_second program > "$out/${name%,*}-${name#*,}.svg" || exit 1
done
echo "rows: $csv"
