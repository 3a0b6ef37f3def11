#!/bin/sh
# train_peers.sh: ./train beside other programs on the GPT-2 124M shape, run by run. `make bench-train-peers PEERS="..."` calls it.
#   PEERS    programs, PATH or PATH:NAME, called as PATH BATCH SEQ STEPS THREADS; a line per step ends in "N tokens/s"
#            (train_torch.py is one, train_llmc.c makes another)
#   BATCHES  sequences x tokens of a step (4x256)              STEPS    of ours in a run, the first not counted (6)
#   PAIRS    runs of each, by turns: A B A B (5)               PEER_STEPS  of a peer (STEPS)
#   DTYPE    of our products (bf16)                            OPTIONS  more of ours
#   OUT      folder where train.csv grows (bench)              THREADS  of all programs
# Our model has as many weights in as many layers: SwiGLU of 2048 for GELU of 3072, RoPE for learned places. Speed does not
# depend on what is learnt, so ours reads text as bytes with a vocabulary of 50304, without masks between documents.
set -u
train=${TRAIN:-./train} maker=${MAKER:-build/release/random_model} peers=${PEERS:-} batches=${BATCHES:-4x256}
steps=${STEPS:-6} peer_steps=${PEER_STEPS:-${STEPS:-6}} pairs=${PAIRS:-5} dtype=${DTYPE:-bf16} out=${OUT:-bench}
shape=${SHAPE:-768,12,12,12,64,2048,50304}
threads=${THREADS:-$("$train" --version | sed 's/.*cpu: \([0-9]*\) thread.*/\1/')}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$out" || exit 1
csv=$out/train.csv date=$(date +%Y-%m-%dT%H:%M:%S)
[ -s "$csv" ] || echo "batch,threads,pair,program,tokens_per_second,date" > "$csv"
"$maker" "$work/words.gguf" Q4_0 "64,1,1,1,64,64,${shape##*,}" || exit 1
yes 'once upon a time there was a bench that measured all it saw. ' | head -c 2000000 > "$work/text.txt"

# The middle of the numbers that come in, the first left out when there are more.
middle() { awk 'NR > 1 || !n { x[++n] = $1 } NR == 2 { n = 1; x[1] = $1 }
    END { if (!n) exit 1
          for (i = 2; i <= n; i++) for (j = i; j > 1 && x[j] < x[j - 1]; j--) { t = x[j]; x[j] = x[j - 1]; x[j - 1] = t }
          print x[int((n + 1) / 2)] }'; }
ours() { # batch seq
    rm -rf "$work/out"
    IFS=, read -r C L H G D F V <<END
$shape
END
    "$train" "$work/text.txt" --family llama --tokenizer "$work/words.gguf" --width "$C" --layers "$L" --heads "$H" --kv-heads "$G" \
        --head-size "$D" --ffn "$F" --seq "$2" --batch-tokens $(($1 * $2)) --steps "$steps" --dtype "$dtype" --no-doc-mask -t "$threads" \
        --valid-share 0 --samples 0 --lr 0.0001 -o "$work/out" ${OPTIONS:-} >"$work/said" 2>&1 || return 1
    sed -n 's/.*"tok_per_s":\([-+.e0-9]*\).*/\1/p' "$work/out/log.jsonl" | middle
}
peer_of() { # program batch seq
    "$1" "$2" "$3" "$peer_steps" "$threads" >"$work/said" 2>"$work/err" || { cat "$work/err" >> "$work/said"; return 1; }
    sed -n 's/.* \([.0-9]*\) tokens\/s$/\1/p' "$work/said" | middle
}

for size in $batches; do
    batch=${size%x*} seq=${size#*x}
    for peer in ${peers:--}; do
        path=${peer%%:*} label=${peer#*:} pair=0
        [ "$label" = "$peer" ] && label=$(basename "$path")
        while [ $pair -lt "$pairs" ]; do
            pair=$((pair + 1))
            a=$(ours "$batch" "$seq") || { echo "bench: ./train failed: $(tail -1 "$work/said")" >&2; exit 1; }
            echo "$size,$threads,$pair,ours beside $label,$a,$date" >> "$csv"
            [ "$peer" = - ] && { echo "$size, run $pair: $a tokens/s"; continue; }
            b=$(peer_of "$path" "$batch" "$seq") || { echo "bench: $label failed at $size, left out: $(tail -1 "$work/said")" >&2; break; }
            echo "$size,$threads,$pair,$label,$b,$date" >> "$csv"
            echo "$size $pair $a $b $label" | awk '{ printf "%s, pair %d: %.1f tokens/s, %s %.1f: %.2f x\n", $1, $2, $3, $5, $4, $3 / $4 }' | tee -a "$work/pairs"
        done
    done
done
[ ! -s "$work/pairs" ] || for key in $(sed 's/^\([^,]*\), pair.*tokens\/s, \(.*\) [.0-9]*: .*/\1,\2/; s/ /_/g' "$work/pairs" | sort -u); do
    grep "^${key%%,*}, pair.* $(echo "${key#*,}" | tr _ ' ') " "$work/pairs" | sed 's/.*: \([.0-9]*\) x$/\1/' | sort -n |
        awk -v key="$key" '{ x[NR] = $1 } END { printf "median: %s: %.2f x (%.2f..%.2f, %d pairs)\n", key, (x[int((NR + 1) / 2)] + x[int(NR / 2) + 1]) / 2, x[1], x[NR], NR }'
done
echo "rows: $csv"
