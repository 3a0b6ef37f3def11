#!/bin/sh
# target.sh: which rule of learning reaches a stated loss with the fewest tokens? `make bench-train` calls it. A claim that
# one is better is made by this table, after AlgoPerf (Dahl et al. 2023, arXiv 2306.07179, external tuning): everything but
# the rule is the same, the target and the rule of tuning are stated before the runs that are judged, and these have seeds
# of their own.
#   SUBMISSIONS  optimizer+schedule, and :option=value of ./train as often as needed: muon+wsd:momentum=0.9:decay=0.2
#   the workload  DATA (own stories)  VALID (the last VALID_BYTES of DATA)  WIDTH (128)  LAYERS (4)  BATCH (4096)  TOKENS (2048000)
#                SEQ (256)  TOKENIZER (bpe:2048)  OPTIONS (--dtype bf16)  SMALL=1: one of seconds, to see it work
#   REFERENCE    the submission that sets the target (adamw+cosine)        TARGET  a loss instead of that
#   FACTORS      of the default rate (0.25 0.5 1 2 4)   RATES_PER  take only the middle so many of them
#   TUNE_SEED    of the runs that choose a factor (1)   SEEDS   of those that are judged (2 3 4)
#   SHARES       of TOKENS at which a run may end before its full length, in tenths (0.4 0.5 0.6 0.7 0.8 0.9)
#   NAME         of OUT/NAME.csv and so on (target)     OUT (bench)   BUDGET, PLAN, JOBS, THREADS  as in sweep.sh
#
# Target: the validation loss of REFERENCE, tuned as all are, at the end of TOKENS: the median of SEEDS. Always on the same
# tokens: all of VALID, at most VALID_BYTES (300000) of it.
# Tuning: every submission is run for all TOKENS with its default rate times each of FACTORS. The default is what ./train
# derives for that optimizer and schedule and prints, for power the whole curve, amplitude and cap. The factor of the lowest
# final loss is taken; nothing else is tuned. The warmup is a twentieth of TOKENS for all, whatever the length.
# Tokens to target: the shortest length, among SHARES and all of TOKENS, at which a seed hands over a model at or below the
# target. Nothing is interpolated, so all are rounded up on the same grid. A model at a length is
#   power, wsd, infinite, inverse-sqrt  the run of that length with its own decay: a rung of --ladder, bit for bit that run
#   constant (schedule-free)            the run as it is then: an evaluation, every tenth of the tokens
#   cosine, linear, and the like        a run of its own of that length, whose horizon it is. These are found by halving, so
#                                       not all are run, and what ends above the target is taken to do so when shorter
# so "60% of the tokens" is always what a user pays who had asked for that length. The tuned rate is that of the full length.
# A submission's place is the median of its seeds; a seed that never gets there counts as later than all that do.
# Seconds are these tokens by the median speed of the steps in the log: JOBS runs share the machine, so take them as a hint.
# They leave evaluations and other rungs out. The state is what ./train --plan counts for the optimizer.
#
# One line a length of a run: workload,submission,kind,factor,seed,length,lr,tokens,loss,tokens_per_s; kind is tune or judge,
# length the tokens of the run, tokens those of the model. What is there is not run again. OUT/NAME-rules.csv keeps default
# rates as they were first derived. Another text, other OPTIONS: another WORKLOAD, a word that names them in both files.
set -u
me=target
[ -z "${SMALL:-}" ] || : "${WIDTH:=64}" "${LAYERS:=1}" "${BATCH:=512}" "${TOKENS:=20480}" "${SEQ:=64}" "${TOKENIZER:=bpe:300}" \
    "${STORY_BYTES:=200000}" "${VALID_BYTES:=10000}" "${SHARES:=0.5 0.8}" "${FACTORS:=0.5 1 2}" "${SEEDS:=2 3 4}" "${NAME:=target-small}"
: "${WIDTH:=128}" "${LAYERS:=4}" "${BATCH:=4096}" "${TOKENS:=2048000}" "${VALID_BYTES:=300000}"
# shellcheck source=tests/bench/runs.sh
. "$(dirname "$0")/runs.sh"
: "${SUBMISSIONS:=adamw+cosine adamw+wsd adamw+power nadamw+cosine muon+wsd lion+wsd schedule-free+constant}"
: "${REFERENCE:=adamw+cosine}" "${TARGET:=}" "${FACTORS:=0.25 0.5 1 2 4}" "${TUNE_SEED:=1}" "${SEEDS:=2 3 4}"
: "${SHARES:=0.4 0.5 0.6 0.7 0.8 0.9}" "${NAME:=target}"
steps=$(((TOKENS + 10 * BATCH - 1) / (10 * BATCH))) # of a tenth
tenth=$((steps * BATCH)) TOKENS=$((steps * BATCH * 10))
echo "$SHARES" | awk '{ for (i = 1; i <= NF; i++) { bad += $i * 10 != int($i * 10 + 0.5) || $i <= last || $i >= 1; last = $i } } END { exit bad > 0 }' ||
    refuse "SHARES are to be tenths below 1, the least first, not $SHARES"
: "${WORKLOAD:=$(basename "${DATA:-stories}" .txt)-w$WIDTH-l$LAYERS-b$BATCH-n$TOKENS}"
csv=$out/$NAME.csv rules=$out/$NAME-rules.csv
if [ -n "${RATES_PER:-}" ]; then
    FACTORS=$(echo "$FACTORS" | awk -v k="$RATES_PER" '{ if (k > NF) k = NF; a = int((NF - k) / 2); for (i = a + 1; i <= a + k; i++) printf "%s ", $i }')
fi
case " $SUBMISSIONS " in *" $REFERENCE "*) ;; *) [ -n "$TARGET" ] || SUBMISSIONS="$REFERENCE $SUBMISSIONS" ;; esac
[ -s "$csv" ] || echo "workload,submission,kind,factor,seed,length,lr,tokens,loss,tokens_per_s" > "$csv"
[ -s "$rules" ] || echo "workload,submission,lr,power_a,decay,state,tokens_per_s" > "$rules"

# How it is said to ./train, and what kind of schedule it has.
spelled() { echo "$1" | sed 's/:/ --/g; s/=/ /g; s/^\([^+ ]*\)+\([^ ]*\)/--optimizer \1 --schedule \2/'; }
kind_of() {
    case $1 in
    *+power* | *+wsd* | *+infinite* | *+inverse-sqrt*) echo rungs ;;
    *+constant*) echo any ;;
    *) echo whole ;;
    esac
}
given() { echo "$1:" | sed -n "s/.*:$2=\([^:]*\):.*/\1/p"; } # submission option
length_of() { echo "$1" | awk -v tenth="$tenth" '{ printf "%.0f", int($1 * 10 + 0.5) * tenth }'; } # share
middle() { sort -g | awk '{ x[NR] = $1 } END { if (NR) print x[int((NR + 1) / 2)] }'; }

# Everything held out is evaluated, and only when asked for.
all_options() { # submission seed length
    # shellcheck disable=SC2046
    echo $(options "$WIDTH" "$BATCH" "$3" "$2") --warmup $((TOKENS / 20)) --eval-tokens 1000000000 $(spelled "$1")
}

# The part that is judged by is never learnt: of a text alone it is the end, cut at a line.
hold_out() {
    if [ -n "${VALID:-}" ]; then
        [ -f "$VALID" ] || refuse "VALID is to be a file of text, not $VALID"
        head -c "$VALID_BYTES" "$VALID" > "$work/valid.txt"
    else
        [ -f "$DATA" ] || refuse "DATA is to be a file of text where VALID is not given, not $DATA"
        tail -c "$VALID_BYTES" "$DATA" | sed 1d > "$work/valid.txt"
        head -c $(($(wc -c < "$DATA") - $(wc -c < "$work/valid.txt"))) "$DATA" > "$work/train.txt"
        DATA=$work/train.txt
    fi
    VALID=$work/valid.txt
    [ -s "$VALID" ] || refuse "there is no text to judge by"
}

# The default rate of each submission, written down once.
state_rules() {
    for s in $SUBMISSIONS; do
        [ -z "$(rule_of "$s" 3)" ] || continue
        # shellcheck disable=SC2046
        "$train" $(all_options "$s" 1 "$TOKENS") --plan -o "$work/plan" >"$work/said" 2>&1 || refuse "$s: $(tail -1 "$work/said")"
        lr=$(given "$s" lr) a=$(given "$s" power-a) decay=$(given "$s" decay)
        : "${lr:=$(sed -n 's/^derived: --lr \([^:]*\):.*/\1/p' "$work/said")}" "${a:=$(sed -n 's/^derived: --power-a \([^:]*\):.*/\1/p' "$work/said")}"
        : "${decay:=$(sed -n 's/^derived: --decay \([^:]*\):.*/\1/p' "$work/said")}"
        [ -n "$lr" ] || refuse "$s: ./train derives no rate; give :lr="
        echo "$WORKLOAD,$s,$lr,${a:--},${decay:--},$(sed -n 's/.*moments \([^,]*\),.*/\1/p' "$work/said"),$(sed -n 's,^time .* at \(.*\) tokens/s.*,\1,p' "$work/said")" >> "$rules"
    done
}
rule_of() { awk -F, -v w="$WORKLOAD" -v s="$1" -v c="$2" '$1 == w && $2 == s { x = $c } END { print x }' "$rules"; } # submission column
product() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.6g", a * b }'; }

# submission kind factor seed length
loss_of() { awk -F, -v k="$WORKLOAD,$1,$2,$3,$4,$5," 'index($0, k) == 1 && $6 == $8 { x = $9 } END { print x }' "$csv"; }
done_already() { [ -n "$(loss_of "$@")" ]; }

one_run() { # submission kind factor seed length
    run=$work/$1-$2-$3-$4-$5 lr=$(product "$(rule_of "$1" 3)" "$3") more=
    case $1 in *+power*) more="--power-a $(product "$(rule_of "$1" 4)" "$3")" ;; esac
    case $2-$(kind_of "$1") in
    judge-rungs) for share in $SHARES; do more="$more --ladder $share"; done ;;
    judge-any) more="$more --eval-every $steps" ;;
    esac
    case $more in *eval-every*) ;; *) more="$more --eval-every 1000000000" ;; esac
    # shellcheck disable=SC2046,SC2086
    train_in "$run" $(all_options "$1" "$4" "$5") --lr "$lr" $more || return 1
    speed=$(sed -n 's/.*"tok_per_s":\([^,}]*\).*/\1/p' "$run/log.jsonl" | middle)
    { sed -n 's/.*"tokens":\([0-9]*\),"val_loss":\([-+.e0-9]*\).*/\1 \2/p; s/.*"cooled_tokens":\([0-9]*\),"cooled_loss":\([-+.e0-9]*\).*/\1 \2/p' "$run/log.jsonl" |
        awk -v end="$5" '$1 != end'; echo "$5 $loss"; } |
        sort -n | awk -v k="$WORKLOAD,$1,$2,$3,$4,$5,$lr" -v speed="$speed" '{ printf "%s,%s,%s,%.0f\n", k, $1, $2, speed }' > "$run.rows"
    cat "$run.rows" >> "$csv"
    rm -rf "$run" "$run.err" "$run.rows"
    printf '  %-5s %-28s x %-5s seed %-3s %8s tokens: %.4f\n' "$2" "$1" "$3" "$4" "$5" "$loss"
}
begin() { done_already "$@" || in_place one_run "$@" || { say_spent; return 1; }; }

for_tuning() { # command...
    for s in $SUBMISSIONS; do for f in $FACTORS; do "$@" "$s" tune "$f" "$TUNE_SEED" "$TOKENS" || return 1; done; done
}
# Of the lowest loss, when all are there; nothing when one is missing.
factor_of() { # submission
    for f in $FACTORS; do
        echo "$f $(loss_of "$1" tune "$f" "$TUNE_SEED" "$TOKENS")"
    done | awk 'NF < 2 { missing = 1 } { x = $2 == "inf" ? 1e30 : $2 + 0 } NR == 1 || x < least { least = x; f = $1 } END { if (!missing) print f }'
}
for_judging() { # command...
    for seed in $SEEDS; do for s in $SUBMISSIONS; do
        f=$(factor_of "$s")
        [ -z "$f" ] || "$@" "$s" judge "$f" "$seed" "$TOKENS" || return 1
    done; done
}

# The median of the reference; nothing while a seed is missing.
state_target() {
    [ -z "$TARGET" ] || { echo "target: $TARGET, given"; return 0; }
    f=$(factor_of "$REFERENCE")
    for seed in $SEEDS; do
        loss_of "$REFERENCE" judge "$f" "$seed" "$TOKENS"
    done | sed 's/^inf$/1e30/' | sort -g | awk -v n="$(echo "$SEEDS" | wc -w)" 'NF { x[++k] = $1 } END { if (k == n) printf "%.17g", (x[int((k + 1) / 2)] + x[int(k / 2) + 1]) / 2 }' > "$work/target"
    TARGET=$(cat "$work/target")
    [ -n "$TARGET" ] || { echo "target: not known before $REFERENCE is through"; return 1; }
    echo "target: $(printf %.4f "$TARGET"), the median of $REFERENCE at $TOKENS tokens, seeds $SEEDS"
}
reached() { awk -v x="$1" -v t="$TARGET" 'BEGIN { exit !(x != "" && x != "inf" && x + 0 <= t + 0) }'; }

# Runs of one seed between the longest length that missed the target and the shortest that reached it.
halve() { # submission factor seed
    low=0 high=$(($(echo "$SHARES" | wc -w) + 1))
    while [ $((high - low)) -gt 1 ]; do
        at=$(((low + high) / 2))
        length=$(length_of "$(echo "$SHARES" | awk -v i=$at '{ print $i }')")
        if ! done_already "$1" judge "$2" "$3" "$length"; then
            spent && return 1
            one_run "$1" judge "$2" "$3" "$length" || return 1
        fi
        if reached "$(loss_of "$1" judge "$2" "$3" "$length")"; then high=$at; else low=$at; fi
    done
}
shorter() { # submission kind factor seed length
    [ "$(kind_of "$1")" = whole ] && reached "$(loss_of "$@")" || return 0
    in_place halve "$1" "$3" "$4" || { say_spent; return 1; }
}

# What is to do, in tokens: with the rungs, each its own decay, and the most that halving may take.
speed_of() { # submission: of its runs, of the rules before there are any
    speed=$(awk -F, -v w="$WORKLOAD" -v s="$1" '$1 == w && $2 == s { print $10 }' "$csv" | middle)
    echo "${speed:-$(rule_of "$1" 7)}"
}
note_run() { done_already "$@" || echo "$1 $2 $(kind_of "$1") $(rule_of "$1" 5) $(speed_of "$1")" >> "$work/runs"; }
note_judging() {
    for seed in $SEEDS; do for s in $SUBMISSIONS; do
        f=$(factor_of "$s")
        note_run "$s" judge "${f:-none}" "$seed" "$TOKENS"
    done; done
}
estimate() {
    : > "$work/runs"
    for_tuning note_run
    note_judging
    awk -v n="$TOKENS" -v shares="$SHARES" -v jobs="$JOBS" -v rules="$(basename "$rules")" '
        function number(x) { return x * (x ~ /k$/ ? 1e3 : x ~ /M$/ ? 1e6 : 1) }
        BEGIN { k = split(shares, share, " "); for (i = 1; i <= k; i++) sum += share[i]; for (i = 1; i <= k; i *= 2) steps++ }
        { s = $1; if (!(s in runs)) order[++count] = s
          more = $2 != "judge" ? 0 : $3 == "rungs" ? ($4 == "-" ? 0.5 : $4) * sum : $3 == "whole" ? steps * sum / k : 0
          runs[s]++; tokens[s] += n * (1 + more); speed[s] = number($5) }
        END {
            for (i = 1; i <= count; i++) { s = order[i]; hours = tokens[s] / speed[s] / 3600; all += hours; m += runs[s]
                printf "  %-28s %3d runs, at most %6.1fM tokens at %6.0f tokens/s: %.2f hours\n", s, runs[s], tokens[s] / 1e6, speed[s], hours }
            printf "%d runs to do: at most %.2f hours, %d at once, by the speeds of %s and of the runs so far, evaluations not counted\n", m, all / jobs, jobs, rules
        }' "$work/runs"
}

# Everything that is known, as a table in Markdown, the best first, and as two charts.
summary() {
    for s in $SUBMISSIONS; do echo "$s $(factor_of "$s")"; done | awk 'NF == 2' > "$work/factors"
    awk -F, -v workload="$WORKLOAD" -v n="$TOKENS" -v b="$BATCH" -v target="$TARGET" -v shares="$SHARES" -v seeds="$SEEDS" -v factors="$FACTORS" -v to="$work" '
        function median(x, k,   i, j, t) {
            for (i = 2; i <= k; i++) { t = x[i]; for (j = i - 1; j > 0 && x[j] > t; j--) x[j + 1] = x[j]; x[j + 1] = t }
            return (x[int((k + 1) / 2)] + x[int(k / 2) + 1]) / 2 }
        function share(t) { return t >= NEVER ? "never" : sprintf("%.0f%%", 100 * t / n) }
        function at_most(t) { return t < (least + 0.05) * n ? "at most " : "" } # nothing shorter was tried
        function number(x) { return x >= NEVER ? "diverged" : sprintf("%.4f", x) }
        function value(x) { return x == "inf" ? NEVER : x + 0 }
        BEGIN { NEVER = 1e30; k = split(shares, f, " "); f[++k] = 1; for (i = 1; i <= k; i++) counts[int(f[i] * 10 + 0.5)] = 1; least = f[1]
            wanted = split(seeds, seed, " "); m = split(factors, f, " "); low = high = f[1]; for (i = 2; i <= m; i++) { if (f[i] + 0 < low + 0) low = f[i]; if (f[i] + 0 > high + 0) high = f[i] }
            print "submission,log2_factor,loss" > (to "/tuning"); print "submission,million_tokens,loss" > (to "/curves") }
        FILENAME == to "/factors" { split($0, f, " "); factor[f[1]] = f[2]; name[++count] = f[1]; next }
        FNR == 1 || $1 != workload || !($2 in factor) { next }
        FILENAME ~ /-rules.csv$/ { state[$2] = $6; next }
        $3 == "tune" && $6 == $8 { printf "%s,%.3f,%s\n", $2, log($4) / log(2), $9 > (to "/tuning"); next }
        $3 != "judge" || $4 != factor[$2] { next }
        index(" " seeds " ", " " $5 " ") {
            tenth = int($8 / n * 10 + 0.5); at = $2 SUBSEP $5; rate[$2] = $7
            if (!((at, tenth) in loss)) loss[at, tenth] = value($9)
            if ($6 == n) speed[at] = $10
            if (target != "" && (tenth in counts) && value($9) <= target && (!(at in first) || $8 < first[at])) first[at] = $8
        }
        END {
            for (i = 1; i <= count; i++) { s = name[i]
                got = reached = 0
                for (j = 1; j <= wanted; j++) { at = s SUBSEP seed[j]; if (!((at, 10) in loss)) continue
                    end[++got] = loss[at, 10]; fast[got] = speed[at]; when[got] = (at in first) ? first[at] : NEVER; reached += at in first }
                if (!got) continue
                t = median(when, got); e = median(end, got); v = median(fast, got)
                sort_key = sprintf("%.0f %.9f", t < NEVER ? t : 9e17, e < NEVER ? e : 1e9)
                printf("%s\t| %s | %s%s | %d of %d | %s%s | %s%s | %s | %s |\n", sort_key, s, target == "" ? "?" : t < NEVER ? at_most(t) share(t) : "not reached",
                    reached && when[1] < when[got] ? sprintf(" (%s..%s)", share(when[1]), share(when[got])) : "", reached, got,
                    number(e), end[1] < end[got] ? sprintf(" (%s..%s)", number(end[1]), number(end[got])) : "",
                    rate[s], sprintf(" (x %s%s)", factor[s], factor[s] == low || factor[s] == high ? ", at the edge" : ""),
                    t < NEVER && v > 0 ? sprintf("%.0f", t / v) : "-", state[s]) > (to "/table")
                for (d = 1; d <= 10; d++) { got = 0
                    if (d / 10 < least - 1e-9) continue
                    for (j = 1; j <= wanted; j++) if ((s, seed[j], d) in loss) end[++got] = loss[s, seed[j], d]
                    if (got == wanted && (e = median(end, got)) < NEVER) printf "%s,%.6g,%.6g\n", s, n * d / 1e7, e > (to "/curves") }
            }
            if (target != "") for (d = least; d < 1.05; d += 1 - least) printf "target,%.6g,%s\n", n * d / 1e6, target > (to "/curves")
        }' "$work/factors" "$rules" "$csv"
    [ -s "$work/table" ] || { echo "nothing is judged yet"; return 0; }
    {
        echo "Workload $WORKLOAD, $TOKENS tokens in all, target $([ -z "$TARGET" ] && echo "not known yet" || printf %.4f "$TARGET"); medians and ranges of seeds $SEEDS, tuned on seed $TUNE_SEED over factors $FACTORS."
        echo
        echo "| submission | tokens to target | seeds | final loss | rate | seconds | state |"
        echo "|---|---|---|---|---|---|---|"
        sort -k1,1n -k2,2n "$work/table" | cut -f2
    } > "$out/$NAME.md"
    cat "$out/$NAME.md"
    "$chart" "loss of a model that ends at so many tokens, median of seeds" million_tokens loss submission < "$work/curves" > "$out/$NAME.svg" && echo "  $out/$NAME.svg"
    { head -1 "$work/tuning"; for s in $SUBMISSIONS; do awk -F, -v s="$s" '$1 == s' "$work/tuning" | sort -t, -k2,2n; done; } > "$work/tuned"
    "$chart" "final loss by log2 of the factor on the default rate" log2_factor loss submission < "$work/tuned" > "$out/$NAME-rates.svg" && echo "  $out/$NAME-rates.svg"
}

# Tuning, then the judged runs, then what the target decides; each part ends before the next begins.
stages() {
    for_tuning begin || return 1
    wait
    for_judging begin || return 1
    wait
    state_target || return 1
    for_judging shorter
}

prepare_text
hold_out
prepare_tokenizer
state_rules
estimate
[ -n "$PLAN" ] && exit 0
open_places
stages
wait
summary
