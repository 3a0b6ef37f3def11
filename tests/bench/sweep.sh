#!/bin/sh
# sweep.sh: the loss over base learning rates, for schedules, widths, batches and lengths. `make bench-sweep` calls it.
#   SHOW      mup: one best rate for all widths?   power: one base value for all batches and lengths?
#             ladder: cool-downs of one wsd trunk beside cosine runs of their lengths   (mup)
# and what that stands for, each of which can be given:
#   SCHEDULES of ./train, with options of their own: power:power-c=1:decay=0.5
#   WIDTHS    channels, multiples of 64     BATCHES  tokens of a step     TOKENS  of a run
#   RATES     --lr of a run        AMPLITUDES for power instead: --power-a, under the cap of CAP (0.01)  SEEDS
#   DATA      text (the stories)   VALID     text to judge by (a share of DATA)   LAYERS   SEQ (256)   TOKENIZER (bpe:2048)
#   OPTIONS   more of ./train (below)     NAME     of the files, OUT/NAME.csv and OUT/NAME-SCHEDULE.svg or, of a ladder, OUT/NAME.svg (sweep-$SHOW), OUT (bench)
#   BUDGET    seconds, after which no run is begun (0: no end)             PLAN=1   say how long it takes, and stop
#   JOBS      runs at once, of THREADS each (the processors by one thread: small models use them better so)
#   PRUNE     leave out a rate when one between it and the best of its cell is already so many times worse (1.03, mup 1.015; 0: all);
#             list the rates you expect to be best first
#   DECAY     of a ladder, a share of each rung (0.08), by 1-sqrt; ladder:rungs=A+B+C+D in SCHEDULES gives each of TOKENS its own,
#             the last of them the trunk's, which costs nothing
# One line a run: schedule,width,batch,tokens,lr,seed,loss; lr is the amplitude for power, and a ladder has a line a rung.
# What is there is not run again, so a sweep may be ended at any time and goes on when it is called again with the same
# OPTIONS, DATA and shape.
set -u
me=sweep show=${SHOW:-mup}
usual="--dtype bf16 --decay 0.2 --warmup 0.1 --eval-tokens 8192 --eval-every 1000000 --peak -1"
[ "$show" = mup ] || usual="$usual --micro-batch 1" # what a narrow model computes at once stays in the cache
: "${OPTIONS:=$usual}"
# shellcheck source=tests/bench/runs.sh
. "$(dirname "$0")/runs.sh"
case $show in
mup) : "${SCHEDULES:=wsd}" "${WIDTHS:=64 128 256 512 1024}" "${BATCHES:=2048}" "${TOKENS:=524288}" "${LAYERS:=2}" "${PRUNE:=1.015}"
     : "${RATES:=0.008 0.0057 0.0113 0.004 0.016 0.0028 0.0226}" ;;
power) : "${SCHEDULES:=power wsd cosine}" "${WIDTHS:=128}" "${BATCHES:=256 1024 4096}" "${TOKENS:=262144 1048576 4194304}" "${LAYERS:=4}"
     : "${AMPLITUDES:=4 2 8 1 16 0.5 32}" ;;
ladder) : "${SCHEDULES:=ladder cosine}" "${WIDTHS:=128}" "${BATCHES:=1024}" "${TOKENS:=1048576 2097152 3145728 4194304}" "${LAYERS:=4}"
     : "${RATES:=0.004 0.002 0.008}" ;;
*) refuse "SHOW is mup, power or ladder, not $show" ;;
esac
: "${AMPLITUDES:=4 2 8 1 16}" "${RATES:=0.004 0.002 0.008 0.001 0.016 0.0005 0.032}" "${SEEDS:=1}" "${PRUNE:=1.03}" "${CAP:=0.01}" "${DECAY:=0.08}"
name=${NAME:-sweep-$show}
csv=$out/$name.csv
[ -s "$csv" ] || echo "schedule,width,batch,tokens,lr,seed,loss" > "$csv"

rates() { [ "${1%%:*}" = power ] && echo "$AMPLITUDES" || echo "$RATES"; } # schedule

# Calls "$@" schedule width batch tokens rate seed for every run of the sweep, the short ones first. A ladder is one run.
for_all() {
    longest=${TOKENS##* }
    for n in $TOKENS; do for w in $WIDTHS; do for b in $BATCHES; do for seed in $SEEDS; do for s in $SCHEDULES; do
        [ "${s%%:*}" = ladder ] && [ "$n" != "$longest" ] && continue
        for lr in $(rates "$s"); do
            "$@" "$s" "$w" "$b" "$n" "$lr" "$seed" || return 1
        done
    done; done; done; done; done
}

done_already() { grep -q "^$1,$2,$3,$4,$5,$6," "$csv"; }
# Whether a rate between this one and the best of its cell is PRUNE times as bad: the loss over rates has one valley.
is_hopeless() {
    awk -F, -v cell="$1,$2,$3,$4" -v rate="$5" -v seed="$6" -v most="$PRUNE" '
        $1 "," $2 "," $3 "," $4 == cell && $6 == seed { r[++n] = $5 + 0; y[n] = $7 == "inf" ? 1e9 : $7 + 0; if (n == 1 || y[n] < y[best]) best = n }
        END { for (i = 1; i <= n; i++) if ((rate - r[i]) * (r[i] - r[best]) > 0 && y[i] > most * y[best]) exit 0; exit 1 }' "$csv"
}
note_run() { done_already "$@" || echo "$*" >> "$work/runs"; }

# How long it will take: tokens of what is to do by the speed of each width, measured now.
estimate() {
    : > "$work/runs"
    for_all note_run
    for w in $WIDTHS; do
        # shellcheck disable=SC2046
        speed=$("$train" $(options "$w" "${BATCHES%% *}" 1m 1) --plan -o "$work/plan" 2>/dev/null | sed -n 's,^time .* at \(.*\) tokens/s.*,\1,p')
        echo "$w $speed" >> "$work/speed"
    done
    awk -v threads="$THREADS" -v jobs="$JOBS" -v load="$(cut -d" " -f1 /proc/loadavg 2>/dev/null)" '
        function number(x) { return x * (x ~ /k$/ ? 1e3 : x ~ /M$/ ? 1e6 : 1) }
        FNR == NR { speed[$1] = number($2); next }
        { runs[$2]++; tokens[$2] += $4 }
        END {
            for (w in runs) {
                hours = tokens[w] / speed[w] / 3600; all += hours; n += runs[w]
                printf "  width %-5s %4d runs, %8.1fM tokens at %6.0f tokens/s: %.2f hours\n", w, runs[w], tokens[w] / 1e6, speed[w], hours
            }
            printf "%d runs to do: %.2f hours, %d at once, %.2f CPU hours, by speeds measured now one by one, at a load of %s\n", n, all / jobs, jobs, all * threads, load
        }' "$work/speed" "$work/runs"
}

one_run() { # schedule width batch tokens rate seed
    [ "$PRUNE" != 0 ] && is_hopeless "$@" && return 0 # asked when a place is free: others have ended since
    run=$work/$1-$2-$3-$4-$5-$6 rate="--schedule ${1%%:*} --lr $5"
    case ${1%%:*} in
    power) rate="--schedule power --power-a $5 --lr $CAP" ;;
    ladder) rate="--schedule wsd --lr $5 --decay-shape 1-sqrt $(rungs_of "$1")" ;;
    esac
    rate="$rate $(echo "$1" | sed 's/^[^:]*//; s/:rungs=[^:]*//; s/:/ --/g; s/=/ /g')"
    # shellcheck disable=SC2046,SC2086
    train_in "$run" $(options "$2" "$3" "$4" "$6") $rate || return 1
    if [ "${1%%:*}" = ladder ]; then # rungs are counted in steps: the nearest of TOKENS is the one that was asked for
        sed -n 's/.*"cooled_tokens":\([0-9]*\),"cooled_loss":\([-+.e0-9]*\).*/\1 \2/p' "$run/log.jsonl" |
            awk -v all="$TOKENS" -v head="$1,$2,$3" -v tail="$5,$6" '
                { n = split(all, t, " "); m = 1; for (i = 2; i <= n; i++) if (($1 - t[i]) ^ 2 < ($1 - t[m]) ^ 2) m = i; print head "," t[m] "," tail "," $2 }' >> "$csv"
    fi
    rm -rf "$run" "$run.err"
    echo "$1,$2,$3,$4,$5,$6,$loss" >> "$csv"
    printf '  %-8s width %-5s batch %-6s tokens %-9s lr %-7s seed %s: %s\n' "$1" "$2" "$3" "$4" "$5" "$6" "$loss"
}

begin() { done_already "$@" || in_place one_run "$@" || { say_spent; return 1; }; }

# The cool-downs of a ladder as ./train takes them.
rungs_of() { # schedule
    echo "$1" | awk -v all="$TOKENS" -v usual="$DECAY" '{
        n = split(all, t, " "); own = match($0, /rungs=[^:]*/) ? split(substr($0, RSTART + 6, RLENGTH - 6), d, "+") : 0
        for (i = 1; i <= n; i++) if (i < n) printf "--ladder %.9g:%s ", t[i] / t[n], own ? d[i] : usual; else printf "--decay %s", own ? d[i] : usual }'
}

# Per cell (all but rate and seed) the best rate, by a parabola through it and its neighbours in the logarithm; then, over
# the cells of a schedule, how far apart these are, and the one value whose worst excess over a cell's best is least.
summary() {
    awk -F, -v to="$work" '
        NR == 1 { next }
        { cell = $1 "," $2 "," $3 "," $4; key = cell "," $5; sum[key] += $7 == "inf" ? 1e9 : $7; n[key]++
          if (!((cell) in seen)) { seen[cell] = ++cells; name[cells] = cell }
          if (!(($1, $5) in known)) { known[$1, $5] = 1; rate[$1, ++rates[$1]] = $5 } }
        function loss(c, r) { return ((c "," r) in sum) ? sum[c "," r] / n[c "," r] : "" }
        END {
            for (s in rates) for (i = 2; i <= rates[s]; i++) { # ascending
                v = rate[s, i]; for (j = i - 1; j > 0 && rate[s, j] + 0 > v + 0; j--) rate[s, j + 1] = rate[s, j]; rate[s, j + 1] = v }
            print "schedule,width,batch,tokens,cell,lr,log2_lr,loss,ratio" > (to "/rows")
            for (k = 1; k <= cells; k++) {
                c = name[k]; split(c, f, ","); s = f[1]; m = 0; at = 0
                for (i = 1; i <= rates[s]; i++) { y = loss(c, rate[s, i]); if (y != "" && y < 1e8) { m++; x[m] = log(rate[s, i]) / log(2); z[m] = y; if (!at || y < z[at]) at = m } }
                if (!at) continue
                best = x[at]
                if (at > 1 && at < m) { d1 = x[at] - x[at-1]; d2 = x[at+1] - x[at]; g1 = (z[at] - z[at-1]) / d1; g2 = (z[at+1] - z[at]) / d2
                    if (g2 > g1) best = (x[at-1] + x[at]) / 2 - g1 * (d1 + d2) / 2 / (g2 - g1) }
                printf "  %-8s width %-5s batch %-6s tokens %-9s best %.5f (of %d: %.5f), loss %.4f%s\n", s, f[2], f[3], f[4], 2 ^ best, m, 2 ^ x[at], z[at], at == 1 || at == m ? ", at the edge" : ""
                if (!(s in low) || best < low[s]) low[s] = best
                if (!(s in high) || best > high[s]) high[s] = best
                for (i = 1; i <= m; i++) { r = 2 ^ x[i]; e = z[i] / z[at]
                    printf "%s,%s,%s,%s,%s,%.6g,%.4f,%.5f,%.5f\n", s, f[2], f[3], f[4], "w" f[2] " b" f[3] " t" f[4], r, x[i], z[i], e > (to "/rows") }
                count[s]++
                for (i = 1; i <= rates[s]; i++) { y = loss(c, rate[s, i]); e = y == "" ? 1e9 : 100 * (y / z[at] - 1); if (e > worst[s, i]) worst[s, i] = e }
                place = f[2] "," f[3] "," f[4]; if (!(place in least) || z[at] < least[place]) least[place] = z[at]
            }
            for (s in count) { b = 1; for (i = 2; i <= rates[s]; i++) if (worst[s, i] < worst[s, b]) b = i
                any = 0
                for (k = 1; k <= cells; k++) { split(name[k], f, ","); if (f[1] == s) { e = 100 * (loss(name[k], rate[s, b]) / least[f[2] "," f[3] "," f[4]] - 1); if (e > any) any = e } }
                printf "%s: best values of %d cells lie within a factor of %.2f; one value for all, %s: at most %.2f%% above the best loss of a cell, %.2f%% above that of any schedule\n", s, count[s], 2 ^ (high[s] - low[s]), rate[s, b], worst[s, b], any }
        }' "$csv"
    [ "$show" = ladder ] && awk -F, -v decay="$DECAY" -v to="$work/ladder" '
        NR == 1 { next }
        { if (!($4 in seen)) { seen[$4] = 1; t[++n] = $4 + 0 } }
        $1 ~ /^ladder/ { trunk = $1 "," $5; sum[trunk] += $7 == "inf" ? 1e9 : $7; rung[trunk, $4] = $7; next }
        { y = $7 == "inf" ? 1e9 : $7 + 0; if (!($4 in best) || y < best[$4]) { best[$4] = y; rate[$4] = $5 } }
        END {
            for (r in sum) if (sum[r] < sum[trunk]) trunk = r
            for (i = 2; i <= n; i++) for (j = i; j > 1 && t[j] < t[j - 1]; j--) { v = t[j]; t[j] = t[j - 1]; t[j - 1] = v }
            print "kind,tokens,loss" > to
            for (i = 1; i <= n; i++) printf "rungs of one trunk,%d,%s\ncosine runs of that length,%d,%s\n", t[i], rung[trunk, t[i]], t[i], best[t[i]] > to
            own = match(trunk, /rungs=[^:,]*/) ? split(substr(trunk, RSTART + 6, RLENGTH - 6), d, "+") : 0
            for (i = 1; i <= n; i++) { c += t[i]; l += (i < n ? (own ? d[i] : decay) : 1) * t[i]
                printf "  %9d tokens: rung %.4f (%s), cosine %.4f (the best of its rates, %s): %+.2f%%\n", t[i], rung[trunk, t[i]], trunk, best[t[i]], rate[t[i]], 100 * (rung[trunk, t[i]] / best[t[i]] - 1) }
            printf "tokens trained: %.1fM for the ladder, %.1fM for the cosines: %.1f%%\n", l / 1e6, c / 1e6, 100 * l / c
        }' "$csv"
    [ "$show" = ladder ] && "$chart" "one trunk with cool-downs, and runs of their own" tokens loss kind < "$work/ladder" > "$out/$name.svg" && echo "  $out/$name.svg"
    [ "$show" = ladder ] || for s in $SCHEDULES; do
        { head -1 "$work/rows"; grep "^$s," "$work/rows"; } > "$work/one"
        [ "$(wc -l < "$work/one")" -gt 1 ] || continue
        "$chart" "$s: loss over the best of its cell, by log2 of the base value" log2_lr ratio cell < "$work/one" > "$out/$name-${s%%:*}.svg" && echo "  $out/$name-${s%%:*}.svg"
    done
}

prepare_text
prepare_tokenizer
run_all
