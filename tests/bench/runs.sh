# runs.sh: what the benches share that train many small models (sweep.sh, target.sh, experts.sh); they read it with `.` and set $me.
# A folder for what is passing, text and tokenizer made once, several runs at once, an end by the clock.
# shellcheck shell=sh disable=SC2034,SC2154
train=${TRAIN:-./train} chart=${CHART:-build/release/chart} out=${OUT:-bench}
: "${SEQ:=256}" "${TOKENIZER:=bpe:2048}" "${OPTIONS:=--dtype bf16}" "${BUDGET:=0}" "${PLAN:=}"
: "${THREADS:=1}" "${JOBS:=$(getconf _NPROCESSORS_ONLN)}"
refuse() { echo "$me: $*" >&2; exit 2; }
mkdir -p "$out" || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work" 2>/dev/null || { sleep 1; rm -rf "$work"; }' EXIT # a run that was told to end may still write
trap 'trap "" TERM; kill 0; wait; exit 130' INT TERM
begun=$(date +%s)

# Everything but the rule of learning; heads of 32, two to a key head.
options() { # width batch tokens seed
    echo "$DATA --size 1M --layers $LAYERS --width $1 --heads $(($1 / 32)) --kv-heads $(($1 / 64)) --head-size 32 --seq $SEQ" \
         "--batch-tokens $2 --tokens $3 -s $4 -t $THREADS --samples 0 --save-seconds 1000000 ${VALID:+--valid $VALID} $OPTIONS"
}

# Own stories where no text is given.
prepare_text() {
    [ -z "${DATA:-}" ] || return 0
    "${STORIES:-build/release/stories}" --bytes "${STORY_BYTES:-20000000}" --out "$work/stories.txt" 2>"$work/err" || refuse "$(cat "$work/err")"
    DATA=$work/stories.txt
}

# A tokenizer made once: the text decides it, so that runs of another day have the same.
prepare_tokenizer() {
    case $TOKENIZER in bpe:*)
        # shellcheck disable=SC2086
        "$train" $DATA --tokenizer "$TOKENIZER" --width 32 --layers 1 --heads 1 --seq 32 --batch-tokens 32 --steps 1 --samples 0 --eval-tokens 32 -o "$work/tok" 2>"$work/err" ||
            refuse "$(tail -1 "$work/err")"
        cp "$work/tok/model.gguf" "$work/tokenizer.gguf"
        TOKENIZER=$work/tokenizer.gguf ;;
    esac
    OPTIONS="$OPTIONS --tokenizer $TOKENIZER"
}

# Trains in a folder; $loss is the last validation's, inf when it diverged. False when there was no run: interrupted,
# killed, or refused for its options.
train_in() { # folder options...
    folder=$1; shift
    "$train" "$@" -o "$folder" >/dev/null 2>"$folder.err"
    code=$?
    [ $code = 0 ] || [ $code = 130 ] || echo "$me: $(basename "$folder"): $(tail -1 "$folder.err")" >&2
    [ $code -lt 2 ] && [ -s "$folder/log.jsonl" ] || return 1
    loss=$(sed -n 's/.*"val_loss":\([-+.e0-9]*\).*/\1/p' "$folder/log.jsonl" | tail -1)
    [ -s "$folder/model.gguf" ] && [ -n "$loss" ] || loss=inf # it diverged and was ended
}

# JOBS places: a place is a line in a pipe, taken before a run and put back after it.
open_places() {
    mkfifo "$work/places"
    exec 3<>"$work/places"
    i=0; while [ "$i" -lt "$JOBS" ]; do echo place >&3; i=$((i + 1)); done
}

# Runs a command beside the others when a place is free. False when the budget is spent.
in_place() {
    read -r place <&3
    if spent; then echo "$place" >&3; return 1; fi
    { "$@"; echo "$place" >&3; } &
}

spent() { [ "$BUDGET" -gt 0 ] && [ $(($(date +%s) - begun)) -ge "$BUDGET" ]; }
say_spent() { echo "$me: the budget is spent; call again to go on"; }

# All of a bench that has estimate, summary, and for_all, which calls its command for every run.
run_all() {
    estimate
    [ -n "$PLAN" ] && exit 0
    open_places
    for_all begin
    wait
    summary
}
