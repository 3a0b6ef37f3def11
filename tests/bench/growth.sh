#!/bin/sh
# growth.sh: how cost grows, by tables with the floor beside. `make bench-growth` calls it.
#   TABLES   of: context rows size threads (all)        MIX      of the models (Q4_0)
#   SHAPE    of the first, second and last (SmolLM2's)  SIZES    of the third (3M 10M 30M 125M 350M 1B 3B)
#   DEPTHS   tokens before (0 ... 32k)                  ROWS     of a pass (1 ... 64)
#   THREADS  of all but the last table                  REPEATS  of each measurement, the median counts (3)
#   OUT      folder where growth.csv grows and the charts are written (bench)
# The models have random weights and are made in a temporary folder. The floor is what the machine could do, by the
# bandwidth or the unit that --ceiling finds at that moment: the bytes of weights and cache, or the multiplications.
set -u
run=${RUN:-./run} maker=${MAKER:-build/release/random_model} chart=${CHART:-build/release/chart}
mix=${MIX:-Q4_0} shape=${SHAPE:-576,30,9,3,64,1536,49152} out=${OUT:-bench} repeats=${REPEATS:-3}
threads=${THREADS:-$("$run" --version | sed 's/.*cpu: \([0-9]*\) thread.*/\1/')}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$out" || exit 1
csv=$out/growth.csv date=$(date +%Y-%m-%dT%H:%M:%S)
head="table,x,what,tokens_per_second,floor,model,threads,date"
[ -s "$csv" ] || echo "$head" > "$csv"
echo "$head" > "$work/rows"

# One measurement: rows of the CSV from the lines that ./run --bench --json prints.
measure() { # table x model threads options...
    table=$1 x=$2 model=$3 t=$4
    shift 4
    "$run" -m "$model" --bench --json --repeats "$repeats" -t "$t" "$@" 2>"$work/err" |
        awk -v row="$table,$x" -v rest="$(basename "$model" .gguf),$t,$date" '
            function of(key) { match($0, "\"" key "\":[-+.e0-9]+"); return substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) }
            { match($0, /"what":"[a-z]+"/); what = substr($0, RSTART + 8, RLENGTH - 9); speed = of("tokens_per_second")
              printf "%s,%s,%.2f,%.2f,%s\n", row, what, speed, speed / of("share"), rest }' > "$work/now"
    [ -s "$work/now" ] || { echo "growth: left out $table $x: $(grep . "$work/err" | tail -1)" >&2; return; }
    cat "$work/now" >> "$work/rows"
    awk -F, '
        { cost = 1000 / $4; if ($1 == "rows") cost *= $2
          printf "  %-12s %-10s %10.1f tokens/s %10.2f ms each   floor %10.1f tokens/s\n", $2, $3, $4, cost, $5 }' "$work/now"
}
model() { # name shape
    "$maker" "$work/$1.gguf" "$mix" "$2" || exit 1
}

for name in ${TABLES:-context rows size threads}; do
    [ "$name" = size ] || [ -e "$work/one.gguf" ] || model one "$shape"
    case $name in
    context)
        echo "context: $mix, $shape; tokens before, 256 read, 16 generated"
        for d in ${DEPTHS:-0 512 1024 2048 4096 8192 16384 32000}; do
            measure context "$d" "$work/one.gguf" "$threads" -d "$d" --bench-prompt 256 --bench-new 16
        done ;;
    rows)
        echo "rows: $mix, $shape; rows of a pass as a draft is verified; ms of a pass"
        for r in ${ROWS:-1 2 3 4 6 8 12 16 32 64}; do
            measure rows "$r" "$work/one.gguf" "$threads" --bench-rows "$r" --bench-prompt 0 --bench-new $((r * 8))
        done ;;
    size)
        echo "size: $mix; 256 read, 16 generated"
        for s in ${SIZES:-3M 10M 30M 125M 350M 1B 3B}; do
            model "$s" "$s"
            measure size "$(echo "$s" | sed "s,M,e6,; s,B,e9,")" "$work/$s.gguf" "$threads" --bench-prompt 256 --bench-new 16
            rm -f "$work/$s.gguf"
        done ;;
    threads)
        echo "threads: $mix, $shape; 256 read, 16 generated"
        t=1
        while [ "$t" -lt "$threads" ]; do
            measure threads "$t" "$work/one.gguf" "$t" --bench-prompt 256 --bench-new 16
            t=$((t * 2))
        done
        measure threads "$threads" "$work/one.gguf" "$threads" --bench-prompt 256 --bench-new 16 ;;
    *) echo "growth: there is no table $name" >&2; exit 2 ;;
    esac
done
tail -n +2 "$work/rows" >> "$csv"
for name in $(awk -F, 'NR > 1 { print $1 "-" $3 }' "$work/rows" | sort -u); do
    { head -1 "$work/rows"; grep "^${name%-*},[^,]*,${name#*-}," "$work/rows"; } |
        "$chart" "$name" x tokens_per_second,floor > "$out/growth-$name.svg" || exit 1
done
echo "rows: $csv, charts: $out/growth-*.svg"
