#!/bin/sh
# experts.sh: what balancing does to experts that learn two kinds of text. `make bench-experts` calls it.
#   CODE PROSE   texts to learn, with documents parted by <|endoftext|> lines   CODE_VALID PROSE_VALID   such texts to judge by
#   ARMS         of --balance (global sequence none)     COEFS   of --balance-coef (0.003 0.01 0.03 0.1)     SEEDS (1 2 3)
#   TOKENS       of a run (4m)      BATCH    tokens of a step (4096)      SEQ (256)      LR (0.01)      TOKENIZER (bpe:2048)
#   MODEL        shape of it (--width 128 --layers 4 --heads 4 --kv-heads 2 --ffn 128 --experts 8 --experts-used 2)
#   OPTIONS      more of ./train (--dtype bf16)       NAME   of the files, OUT/NAME.csv and OUT/NAME-*.svg (experts), OUT (bench)
#   BUDGET       seconds, after which no run is begun (0: no end)             PLAN=1   say how long it takes, and stop
#   JOBS         runs at once, of THREADS each (the processors by one thread: small models use them better so)
# The claim (Qiu et al. 2025, arXiv 2501.11873): where few texts are balanced at a time, each kind of text must use all experts
# evenly, so none can keep to one kind; balancing over the batch, which holds both, lets them. `sequence` balances within a
# single sequence, the smallest micro-batch there is. Each of the files is read from end to end, so all sequences but the one
# at the seam hold one kind only, however long documents are.
# One line a run: balance,coef,seed,loss,code,prose,busiest,entropy,apart,dead. loss: on both held-out texts, as ./train logs
# it; code, prose: nats per token of ./run --perplexity; then of the use of experts on both texts, each weighing the same,
# means over layers: the largest share times E (1 is even); entropy over its largest (1 is even); `apart`, the Jensen-Shannon
# divergence in bits between the shares on code and on prose (0: the same experts for both, 1: none in common); and `dead`,
# the experts of all layers with less than a hundredth of an even share. Runs that are there are not run again.
set -u
me=experts run=${RUN:-./run}
# shellcheck source=tests/bench/runs.sh
. "$(dirname "$0")/runs.sh"
for file in "${CODE:-}" "${PROSE:-}" "${CODE_VALID:-}" "${PROSE_VALID:-}"; do [ -f "$file" ] || refuse "give texts by CODE, PROSE, CODE_VALID and PROSE_VALID; no file: '$file'"; done
: "${ARMS:=global sequence none}" "${COEFS:=0.003 0.01 0.03 0.1}" "${SEEDS:=1 2 3}" "${TOKENS:=4000000}" "${BATCH:=4096}" "${LR:=0.01}"
: "${MODEL:=--width 128 --layers 4 --heads 4 --kv-heads 2 --ffn 128 --experts 8 --experts-used 2}"
DATA="$CODE $PROSE" name=${NAME:-experts}
csv=$out/$name.csv
[ -s "$csv" ] || echo "balance,coef,seed,loss,code,prose,busiest,entropy,apart,dead" > "$csv"

# Calls "$@" balance coef seed for every run, seed by seed: what is there when the budget ends is a whole comparison.
for_all() {
    for seed in $SEEDS; do for arm in $ARMS; do for coef in $([ "$arm" = none ] && echo 0 || echo "$COEFS"); do
        "$@" "$arm" "$coef" "$seed" || return 1
    done; done; done
}

arm_options() { # balance coef seed
    echo "$DATA --valid $CODE_VALID --valid $PROSE_VALID --family granitemoe --size 1M $MODEL --seq $SEQ" \
         "--batch-tokens $BATCH --tokens $TOKENS --schedule wsd --lr $LR --balance $1 --balance-coef $2 -s $3 -t $THREADS --samples 0" \
         "--save-seconds 1000000 --rollback 0 $OPTIONS"
}

# The held-out texts without marks, for ./run.
prepare_scores() {
    grep -vxF '<|endoftext|>' "$CODE_VALID" > "$work/code"
    grep -vxF '<|endoftext|>' "$PROSE_VALID" > "$work/prose"
}

done_already() { grep -q "^$1,$2,$3," "$csv"; }
note_run() { done_already "$@" || echo "$*" >> "$work/runs"; }

estimate() {
    : > "$work/runs"
    for_all note_run
    # shellcheck disable=SC2046
    "$train" $(arm_options global 0.01 1) --plan -o "$work/plan" 2>/dev/null | sed -n 's,^time .* at \(.*\) tokens/s.*,\1,p' |
        awk -v runs="$(wc -l < "$work/runs")" -v tokens="$TOKENS" -v jobs="$JOBS" -v load="$(cut -d" " -f1 /proc/loadavg 2>/dev/null)" '
        function number(x) { return x * (x ~ /k$/ ? 1e3 : x ~ /[mM]$/ ? 1e6 : 1) }
        { printf "%d runs to do, of %.1fM tokens at %.0f tokens/s: %.2f hours, %d at once, by a speed measured now at a load of %s\n", runs,
              number(tokens) / 1e6, number($1), runs * number(tokens) / number($1) / 3600 / jobs, jobs, load }'
}

score() { "$run" -m "$1" --perplexity "$work/$2" -c "$SEQ" --stride "$SEQ" --exact -t "$THREADS" --json 2>/dev/null; } # model text

# From the two lines of JSON: code,prose,busiest,entropy,apart,dead.
measure() {
    awk '
    function bits(x) { return x > 0 ? -x * log(x) / log(2) : 0 }
    {
        match($0, /"nats_per_token":[-+.e0-9]+/); loss[NR] = substr($0, RSTART + 17, RLENGTH - 17)
        if (!match($0, /"experts":\[\[[^}]*\]\]/)) exit 1
        rows = substr($0, RSTART + 12, RLENGTH - 14)
        L = split(rows, row, /\],\[/)
        for (l = 1; l <= L; l++) {
            E = split(row[l], n, ","); all = 0
            for (e = 1; e <= E; e++) all += n[e]
            for (e = 1; e <= E; e++) share[NR, l, e] = n[e] / all
        }
    }
    END {
        if (NR != 2) exit 1
        for (l = 1; l <= L; l++) {
            most = 0
            for (e = 1; e <= E; e++) {
                p = share[1, l, e]; q = share[2, l, e]; m = (p + q) / 2
                if (m > most) most = m
                whole += bits(m); apart += bits(m) - (bits(p) + bits(q)) / 2; dead += m * E < 0.01
            }
            busiest += most * E
        }
        printf "%s,%s,%.5f,%.5f,%.6f,%d\n", loss[1], loss[2], busiest / L, whole / L / (log(E) / log(2)), apart / L, dead
    }'
}

one_run() { # balance coef seed
    at=$work/run-$1-$2-$3
    # shellcheck disable=SC2046
    train_in "$at" $(arm_options "$@") || return 1
    row=$({ score "$at/model.gguf" code; score "$at/model.gguf" prose; } | measure) || { echo "$me: $*: its model could not be scored" >&2; return 0; }
    rm -rf "$at" "$at.err"
    echo "$1,$2,$3,$loss,$row" >> "$csv"
    echo "  $1 $2, seed $3: $loss,$row" | tr ',' ' '
}

begin() { done_already "$@" || in_place one_run "$@" || { say_spent; return 1; }; }

# Per arm and coefficient the mean over seeds and, in brackets, their range; then the best coefficient of each arm, and the arms at theirs,
# seed by seed, so that a seed's own luck falls out of the difference.
summary() {
    awk -F, -v to="$work" -v asked="$ARMS" '
    BEGIN { n_asked = split(asked, a, " "); for (i = 1; i <= n_asked; i++) { seen[a[i]] = 1; order[++arms] = a[i] } }
    NR == 1 { for (i = 4; i <= NF; i++) title[i] = $i; n_fields = NF; next }
    {
        cell = $1 "," $2
        if (!(cell in n)) { name[++cells] = cell; arm[cells] = $1; coef[cells] = $2; if (!($1 in seen)) { seen[$1] = 1; order[++arms] = $1 } }
        n[cell]++; by_seed[cell, $3] = $4; apart_seed[cell, $3] = $9; seeds[$3] = 1
        for (i = 4; i <= NF; i++) {
            sum[cell, i] += $i
            if (n[cell] == 1 || $i < low[cell, i]) low[cell, i] = $i
            if (n[cell] == 1 || $i > high[cell, i]) high[cell, i] = $i
        }
    }
    function mean(c, i) { return sum[c, i] / n[c] }
    function against(a, b,    s, k, d, x, lo, hi) { # best cells of two arms
        k = d = x = 0
        for (s in seeds) if (((a, s) in by_seed) && ((b, s) in by_seed)) {
            e = by_seed[a, s] - by_seed[b, s]; d += e; x += apart_seed[a, s] - apart_seed[b, s]; if (!k++) lo = hi = e; if (e < lo) lo = e; if (e > hi) hi = e }
        if (k) printf "%s against %s: loss %+.4f (%+.4f to %+.4f over %d seeds), apart %+.4f bits\n", a, b, d / k, lo, hi, k, x / k
    }
    END {
        printf "  %-9s %-6s %s", "balance", "coef", "seeds"
        for (i = 4; i <= n_fields; i++) printf " %16s", title[i]
        print ""
        for (k = 1; k <= cells; k++) {
            c = name[k]; printf "  %-9s %-6s %5d", arm[k], coef[k], n[c]
            for (i = 4; i <= n_fields; i++) printf " %16s", sprintf("%.4f (%.4f)", mean(c, i), high[c, i] - low[c, i])
            print ""
            if (!(arm[k] in best) || mean(c, 4) < mean(best[arm[k]], 4)) best[arm[k]] = c
        }
        for (i = 1; i <= arms; i++) if (order[i] in best) printf "%s: best at %s, loss %.4f, apart %.4f bits\n", order[i], best[order[i]], mean(best[order[i]], 4), mean(best[order[i]], 9)
        for (i = 2; i <= arms; i++) against(best[order[1]], best[order[i]])
        for (k = 1; k <= cells; k++) if (arm[k] != order[1] && ((order[1] "," coef[k]) in n)) against(order[1] "," coef[k], name[k])
        print "balance,log2_coef,loss,apart" > (to "/rows")
        for (k = 1; k <= cells; k++) {
            c = name[k]
            if (coef[k] > 0) { printf "%s,%.4f,%.5f,%.6f\n", arm[k], log(coef[k]) / log(2), mean(c, 4), mean(c, 9) > (to "/rows"); continue }
            for (j = 1; j <= cells; j++) if (coef[j] > 0 && arm[j] == order[1]) # a level, whatever the coefficient
                printf "%s,%.4f,%.5f,%.6f\n", arm[k], log(coef[j]) / log(2), mean(c, 4), mean(c, 9) > (to "/rows")
        }
    }' "$csv"
    [ "$(wc -l < "$work/rows")" -gt 2 ] || return 0
    "$chart" "loss on code and prose, by log2 of the balance coefficient" log2_coef loss balance < "$work/rows" > "$out/$name-loss.svg" && echo "  $out/$name-loss.svg"
    "$chart" "bits between the experts of code and of prose" log2_coef apart balance < "$work/rows" > "$out/$name-apart.svg" && echo "  $out/$name-apart.svg"
}

prepare_tokenizer
prepare_scores
run_all
