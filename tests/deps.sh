#!/bin/sh
# deps.sh: Criterion from the system's package manager, when the compiler does not find it.
found() { printf '#include <criterion/criterion.h>\nTest(a, b) {}\n' | ${CC:-cc} -x c - -lcriterion -o /dev/null 2>/dev/null; }
found && { echo "deps: Criterion is here"; exit 0; }
as_root=
[ "$(id -u)" = 0 ] || as_root=sudo
if command -v apt-get >/dev/null; then
    $as_root apt-get update -q && $as_root apt-get install -y -q libcriterion-dev
elif command -v dnf >/dev/null; then $as_root dnf install -y criterion-devel
elif command -v pacman >/dev/null; then $as_root pacman -S --noconfirm criterion
elif command -v brew >/dev/null; then brew install criterion
else echo "deps: no package manager known here; install Criterion (https://github.com/Snaipe/Criterion) by hand"; exit 1
fi
found || { echo "deps: Criterion was installed, but the compiler does not find it"; exit 1; }
