#!/bin/sh
# demo.sh: what `make demo` shows. Trains the default model on stories of our own for two and a half minutes in front of the
# reader, lets it write, and asks the grammar how much of that it could have written itself.
set -e
out=${DEMO_OUT:-out/demo}
rm -rf "$out"
mkdir -p "$out"
./train -o "$out" --time "${DEMO_TIME:-155}" --samples 0
echo
echo "Three new stories by the model that was just trained:"
for seed in 1 2 3; do
    echo
    ./run -m "$out/model.gguf" -s "$seed" 2>/dev/null
done
for seed in $(seq 101 140); do
    ./run -m "$out/model.gguf" -s "$seed" 2>/dev/null
    echo '<|endoftext|>'
done > "$out/written.txt"
echo
echo "Forty more, followed through the grammar that wrote the corpus:"
build/release/stories --score "$out/written.txt" | tail -1
