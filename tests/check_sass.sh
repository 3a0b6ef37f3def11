#!/bin/sh
# check_sass.sh: what nvcc made of cuda/*.cu for one GPU: no warnings, hardly a register spilled to memory, tensor cores where they
# are meant. `make check-sass` calls it; it needs the CUDA Toolkit, no GPU.
#   ARCH    sm_90a         KERNELS    words in the names of kernels that must use tensor cores (none)
#   MOST    bytes that a kernel may spill (80, which is what the worst does; it may shrink)
#   SPILL   words in the names of kernels that may spill more (quantize_kernel: a thread makes a block, nobody waits for it)
#   FILES   those of cuda/*.cu to look at (all)
# One line a kernel: registers, static shared memory, bytes spilled, instructions of tensor cores (HMMA, IMMA, HGMMA). On sm_90a
# kernels with wgmma in their names must have HGMMA, and ptxas must not have serialized them (its C75.. notes).
set -u
nvcc=${NVCC:-nvcc} arch=${ARCH:-sm_90a} wanted=${KERNELS:-}
command -v "$nvcc" >/dev/null || { echo "check-sass: left out, there is no nvcc"; exit 0; }
objdump=$(command -v cuobjdump || true)
[ -n "$objdump" ] || { [ -z "$wanted" ] || echo "check-sass: there is no cuobjdump, so tensor cores are not looked for"; wanted=; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
bad=0
for file in ${FILES:-cuda/*.cu}; do
    name=$(basename "$file" .cu)
    if ! "$nvcc" -std=c++20 -O3 -fmad=false -I. -D_GNU_SOURCE -gencode "arch=compute_${arch#sm_},code=$arch" -Xptxas -v -Xcompiler -Wall,-Wextra,-Wno-unused-function,-Wno-deprecated-enum-enum-conversion,-Wno-deprecated-enum-float-conversion \
        -cubin -o "$work/$name.cubin" "$file" 2>"$work/$name.log"; then
        cat "$work/$name.log"
        echo "check-sass: $file does not compile"
        exit 1
    fi
    if grep -iE 'warning|\(C75[0-9]*\)' "$work/$name.log"; then bad=1; fi
    if [ -n "$objdump" ]; then "$objdump" -sass "$work/$name.cubin"; fi |
        awk '/Function :/ { f = $3 } / (HMMA|IMMA|HGMMA|QGMMA|IGMMA)/ { n[f]++ } / HGMMA/ { h[f]++ } END { for (f in n) print f, n[f], h[f] + 0 }' >"$work/$name.mma"
    awk -v mma="$work/$name.mma" '
        BEGIN { while ((getline line < mma) > 0) { split(line, part, " "); tensor[part[1]] = part[2]; group[part[1]] = part[3] } }
        /Function properties for/ { f = $NF }
        /spill stores/ { for (i = 1; i < NF; i++) if ($(i + 1) == "bytes" && $(i + 3) == "stores," ) spill[f] = $i }
        /Used [0-9]+ registers/ { for (i = 1; i < NF; i++) { if ($i == "Used") regs[f] = $(i + 1); if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) smem[f] = $i } order[++count] = f }
        END { for (i = 1; i <= count; i++) { f = order[i]; printf "%s %d %d %d %d %d\n", f, regs[f], smem[f], spill[f], tensor[f], group[f] } }' "$work/$name.log" >>"$work/all"
done
c_names=$(command -v c++filt || echo cat)
cut -d' ' -f1 "$work/all" | $c_names | sed 's/(.*//; s/^void //' | tr ' ' '_' >"$work/names"
printf '%-70s %5s %8s %6s %6s\n' kernel regs shared spills tensor
paste -d' ' "$work/names" "$work/all" | awk -v wanted="$wanted" -v may="${SPILL-quantize_kernel}" -v most="${MOST:-80}" '
    BEGIN { n = split(wanted, want, " "); m = split(may, allow, " ") }
    { printf "%-70s %5d %8d %6d %6d\n", $1, $3, $4, $5, $6
      fine = 0
      for (i = 1; i <= m; i++) if (index($1, allow[i])) fine = 1
      if ($5 > most && !fine) { print "check-sass: " $1 " spills " $5 " bytes"; bad = 1 }
      if (groups == "sm_90a" && index($1, "wgmma") && $7 == 0) { print "check-sass: " $1 " has no HGMMA"; bad = 1 }
      for (i = 1; i <= n; i++) if (index($1, want[i])) { seen[i]++; if ($6 == 0) { print "check-sass: " $1 " has no instruction of tensor cores"; bad = 1 } } }
    END { for (i = 1; i <= n; i++) if (!seen[i]) { print "check-sass: there is no kernel with \"" want[i] "\" in its name"; bad = 1 }
          exit bad }' || bad=1
[ $bad = 0 ] && echo "check-sass: $(wc -l <"$work/all") kernels for $arch"
exit $bad
