#!/bin/sh
# arm.sh: `make check-arm`. Builds everything for 64-bit ARM, with no warning, and runs in an emulator what looks at kernels:
# the suites of core, kernels, blocks and branches, the ops at every level of ARM, and a greedy text of the shipped model, which
# has to be that of the plain level. Then a tiny model is trained at every level, the same by all of ARM's, and compared with what
# ./train makes of the plain level here. Then the same text from a build for RISC-V, which has the plain level only. Says nothing about speed.
# The suites run side by side, as many as there are cores; logs stay in build/arm/.
#   LONG=1                              the plain level's ops and what tests the harness, too (make check-arm-long)
#   ARM, QEMU_ARM, RISCV, QEMU_RISCV    compilers and emulators, when they have other names
#   WORD                                only tests whose suite/name has it
set -u
ARM=${ARM:-aarch64-linux-gnu-gcc} RISCV=${RISCV:-riscv64-linux-gnu-gcc}
QEMU_ARM=${QEMU_ARM:-qemu-aarch64-static} QEMU_RISCV=${QEMU_RISCV:-qemu-riscv64-static}
export QEMU_CPU=max # with i8mm
model=data/stories-1m.gguf

need() { # of one processor: there is everything, or one line says what is missing
    for tool in "$@"; do
        command -v "${tool##* }" >/dev/null || { echo "check-arm: left out, there is no $tool (Debian: gcc-aarch64-linux-gnu" \
            "libc6-dev-arm64-cross gcc-riscv64-linux-gnu libc6-dev-riscv64-cross qemu-user-static)"; return 1; }
    done
}
build() { # folder, compiler, targets
    folder=$1 compiler=$2
    shift 2
    make --no-print-directory -s B="$folder" CC="$compiler" LDFLAGS=-static CPPFLAGS=-Werror "$@"
}
say() { # emulator, folder, level
    "$1" "$2/run" -m $model -p "One day" -n 24 --temp 0 -t 2 --cpu "$3" 2>/dev/null
}
learn() { # folder of the result, level, program: a few steps of a tiny model, and a text of it
    out=$1 level=$2
    shift 2
    rm -rf "$out" && "$@" build/arm/some.txt --tokenizer byte --width 32 --layers 1 --heads 2 --kv-heads 2 --seq 32 \
        --batch-tokens 64 --steps 4 --samples 0 -t 1 --cpu "$level" -o "$out" >"$out.log" 2>&1 ||
        { echo "check-arm: $level does not train: $out.log"; exit 1; }
}

# Groups of tests that take about as long, the longest first. The words of a line are small_suites'.
groups="branches/of_n branches/of_d branches/of_i
kernels/products
ops/neon
ops/dotprod
ops/i8mm
blocks/ kernels/a kernels/g kernels/l kernels/packed kernels/r kernels/the
err/ mem/ arena/ text/ file/ hash/ rng/ pool/ dtype/ core/ backend_cpu/"
[ "${LONG:-}" ] && groups="$groups
ops/plain branches/of_p
ops/what ops/every ops/sum ops/a_batch ops/nothing op_checks/"
[ "${WORD:-}" ] && groups=$WORD

need "$ARM" "$QEMU_ARM" || exit 0
b=build/arm
build $b "$ARM" $b/run $b/train $b/small_suites || exit 1
rm -f $b/suite.*
echo "$groups" | xargs -P "$(nproc 2>/dev/null || echo 2)" -I{} sh -c \
    'log=$2/suite.$(echo "$3" | tr " /" "__"); $1 $2/small_suites $3 >"$log" || { tail -5 "$log"; exit 1; }; echo "check-arm: $3: $(tail -1 "$log")"' \
    sh "$QEMU_ARM" $b {} || exit 1
plain=$(say "$QEMU_ARM" $b plain)
for level in neon dotprod i8mm; do
    [ -n "$plain" ] && [ "$(say "$QEMU_ARM" $b $level)" = "$plain" ] ||
        { echo "check-arm: the text of $level is not that of plain"; exit 1; }
done
echo "check-arm: neon, dotprod and i8mm say what plain says"

head -c 6000 README.md >$b/some.txt
for level in plain neon dotprod i8mm; do
    learn $b/$level $level "$QEMU_ARM" $b/train
    [ $level = plain ] || cmp $b/$level/model.gguf $b/neon/model.gguf || exit 1
done
"$QEMU_ARM" $b/run -m $b/plain/model.gguf -n 8 -t 1 --cpu plain >/dev/null 2>&1 || { echo "check-arm: no text of what was trained"; exit 1; }
echo "check-arm: neon, dotprod and i8mm train the same model"
# Promised to nobody, as exponentials come from the system's libm; so it is where both have fused multiply-adds.
learn $b/here plain ./train
if cmp -s $b/plain/model.gguf $b/here/model.gguf; then echo "check-arm: plain trains the model that it trains here"
else echo "check-arm: plain trains another model than here, which is no fault"; fi

need "$RISCV" "$QEMU_RISCV" || exit 0
b=build/riscv
build $b "$RISCV" $b/run $b/train || exit 1
[ "$(say "$QEMU_RISCV" $b plain)" = "$plain" ] || { echo "check-arm: the text on RISC-V is another"; exit 1; }
echo "check-arm: RISC-V says so, too"
