#!/bin/sh
# arm.sh: `make check-arm`. Builds everything for 64-bit ARM, with no warning, and runs in an emulator what looks at kernels:
# the suites of ops, kernels and blocks at every level, and a greedy text of the shipped model, which has to be that of the
# plain level. Then the same text from a build for RISC-V, which has the plain level only. Says nothing about speed.
#   ARM, QEMU_ARM, RISCV, QEMU_RISCV    compilers and emulators, when they have other names
#   WORD                                only tests whose suite/name has it
set -u
ARM=${ARM:-aarch64-linux-gnu-gcc} RISCV=${RISCV:-riscv64-linux-gnu-gcc}
QEMU_ARM=${QEMU_ARM:-qemu-aarch64-static} QEMU_RISCV=${QEMU_RISCV:-qemu-riscv64-static}
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

need "$ARM" "$QEMU_ARM" || exit 0
b=build/arm
build $b "$ARM" $b/run $b/train $b/small_suites || exit 1
"$QEMU_ARM" $b/small_suites ${WORD:-} >$b/small_suites.log || { tail -20 $b/small_suites.log; exit 1; }
tail -1 $b/small_suites.log
plain=$(say "$QEMU_ARM" $b plain)
for level in neon dotprod; do
    [ -n "$plain" ] && [ "$(say "$QEMU_ARM" $b $level)" = "$plain" ] ||
        { echo "check-arm: the text of $level is not that of plain"; exit 1; }
done
echo "check-arm: neon and dotprod say what plain says"

need "$RISCV" "$QEMU_RISCV" || exit 0
b=build/riscv
build $b "$RISCV" $b/run $b/train || exit 1
[ "$(say "$QEMU_RISCV" $b plain)" = "$plain" ] || { echo "check-arm: the text on RISC-V is another"; exit 1; }
echo "check-arm: RISC-V says so, too"
