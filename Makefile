# lehr: `make help` says what there is. Objects live in build/<config>/, one folder per configuration:
#   release  what `make` builds          test  asserts, allocation guard, -O2          asan  the same under ASan and UBSan
#   fuzz     for libFuzzer (tests/fuzz.sh)   gpu    the tests of cuda/ with nvcc's objects (make test-gpu)
#   shim, shim-asan  the same on this processor (make shim)
CC      ?= cc
CONFIG  ?= release
B       := build/$(CONFIG)
ARCH    := $(shell $(CC) -dumpmachine 2>/dev/null | cut -d- -f1)

WARN    := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes
# gcc 12 for ARM falls over maxima in double at -O3 (vect_transform_reduction); kernels are vectors already.
CFLAGS  ?= $(if $(filter aarch64,$(ARCH)),-O2,-O3)
OURS    := -I. -D_GNU_SOURCE -std=c11 $(WARN) -g -ffp-contract=off -fno-math-errno -MMD -MP -pthread
LDLIBS  += -lm -pthread

ifeq ($(CONFIG),test)
  CFLAGS := -O2 -DLEHR_GUARD
else ifeq ($(CONFIG),asan)
  CFLAGS := -O1 -DLEHR_GUARD -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
  LDFLAGS += -fsanitize=address,undefined
else ifeq ($(CONFIG),gpu)
  CFLAGS := -O2 -DLEHR_GUARD -Itests/small
else ifeq ($(CONFIG),shim)
  CFLAGS := -O2 -DLEHR_GUARD -DCUDA_ON_CPU
else ifeq ($(CONFIG),shim-asan)
  CFLAGS := -O1 -DLEHR_GUARD -DCUDA_ON_CPU -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
  LDFLAGS += -fsanitize=address,undefined
else ifeq ($(CONFIG),fuzz)
  CFLAGS := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
  LDFLAGS += -fsanitize=fuzzer,address,undefined
endif

# cuda/*.cu for GPUs: where there are nvcc and a GPU for this one, Hopper by its own name, as native leaves wgmma out; with CUDA=1,
# which needs no GPU, for all from Turing on and, as PTX, for those to come, which takes minutes. In the shim configurations the same
# files are compiled for this very processor.
CXX       ?= c++
comma     := ,
NVCC      ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
GPU_HERE  := $(wildcard /dev/nvidia0)
CUDA      ?= $(if $(and $(NVCC),$(GPU_HERE)),1,0)
CUDA_CAP  := $(if $(GPU_HERE),$(shell nvidia-smi --query-gpu=compute_cap --format=csv$(comma)noheader 2>/dev/null))
CUDA_ARCH ?= $(if $(GPU_HERE),$(if $(filter 9.0,$(CUDA_CAP)),sm_90a,native),all)
CUDA_CODE := $(if $(filter all,$(CUDA_ARCH)),$(foreach a,75 80 90a 120,-gencode arch=compute_$(a)$(comma)code=sm_$(a)) -gencode arch=compute_120$(comma)code=compute_120,$(if $(filter sm_%,$(CUDA_ARCH)),-gencode arch=$(CUDA_ARCH:sm_%=compute_%)$(comma)code=$(CUDA_ARCH),-arch=$(CUDA_ARCH)))
GPUOBJ    := $(patsubst %.cu,$(B)/%.o,$(wildcard cuda/*.cu))
LINK      := $(CC)
ifneq (,$(filter shim%,$(CONFIG)))
  GPUOBJ  += $(B)/tests/cuda_on_cpu.o
  LINK    := $(CXX)
  CUDA_CC := $(CXX) -x c++ -march=native -ffp-contract=off -g -Wall -Wextra -Wno-unused-function -Wno-deprecated-enum-enum-conversion -Wno-deprecated-enum-float-conversion -Wno-unknown-pragmas -MMD -MP $(CFLAGS)
else ifneq (,$(and $(filter 1,$(CUDA)),$(filter release gpu,$(CONFIG))))
  GPULIBS := -L$(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))/lib64 -lcudart_static -ldl -lrt
  CUDA_CC := $(NVCC) -O3 -fmad=false -lineinfo $(CUDA_CODE) --threads 0 -Xcompiler -Wall,-Wextra,-Wno-unused-function,-Wno-deprecated-enum-enum-conversion,-Wno-deprecated-enum-float-conversion,-fno-exceptions,-fno-threadsafe-statics -MMD -MP
else
  GPUOBJ  :=
endif

# Only the kernels may assume a processor; each file of them is compiled for its own and chosen at run time.
ifneq (,$(filter x86_64 amd64,$(ARCH)))
  ISA_avx2   := -mavx2 -mfma -mf16c
  ISA_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c
  ISA_amx    := $(ISA_avx512) -mavx512bf16 -mamx-tile -mamx-bf16
  ISA_amx_attend     := $(ISA_amx)
  ISA_ceiling_avx2   := $(ISA_avx2)
  ISA_ceiling_avx512 := $(ISA_avx512)
  ISA_ceiling_amx    := $(ISA_amx) -mamx-int8
  ISA_amx_whole      := $(ISA_avx512) -mavx512vbmi -mamx-tile -mamx-int8
endif
ifeq (aarch64,$(ARCH))
  ISA_dotprod         := -march=armv8.2-a+dotprod
  ISA_ceiling_dotprod := $(ISA_dotprod)
  ISA_i8mm            := $(ISA_dotprod)+i8mm
  ISA_ceiling_i8mm    := $(ISA_i8mm)
endif

# All cores, unless told otherwise.
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)

MODULES := core formats tokenizer cpu model gen learn
SRC     := backend.c profile.c device.c device_check.c $(wildcard $(MODULES:%=%/*.c))
OBJ     := $(SRC:%.c=$(B)/%.o) $(GPUOBJ)
$(B)/device.o: OURS += $(if $(GPUOBJ),-DLEHR_CUDA)
TESTOBJ := $(patsubst %.c,$(B)/%.o,$(wildcard tests/*.c))

all: train run ## build ./train and ./run
	@[ $(CUDA) = 1 ] || echo "no GPUs in this build: $(if $(NVCC),this machine has none; make CUDA=1 compiles for all of them,nvcc was not found)"
train run: %: $(B)/%
	@cp -f $< $@
$(B)/train: $(B)/train.o $(B)/train_setup.o $(B)/train_from.o $(B)/train_draft.o $(B)/train_loop.o $(B)/train_save.o $(B)/train_find.o $(B)/train_check.o $(B)/train_tune.o $(B)/train_end.o \
    $(B)/train_options.o $(B)/data/stories.o $(OBJ)
$(B)/run: $(B)/run.o $(B)/run_models.o $(B)/run_bench.o $(B)/run_spec.o $(OBJ)
$(B)/stories: $(B)/data/stories_main.o $(B)/data/stories.o
$(B)/suites: $(TESTOBJ) $(OBJ)
$(B)/suites: LDLIBS += -lcriterion
$(B)/bench_ops: $(B)/tests/bench/bench_ops.o $(OBJ)
$(B)/render_chat: $(B)/tests/tools/render_chat.o $(OBJ)
$(B)/tokenize_texts: $(B)/tests/bench/tokenize_texts.o $(OBJ)
$(B)/random_model: $(B)/tests/bench/random_model.o $(OBJ)
$(B)/chart: $(B)/tests/bench/chart.o $(OBJ)
$(B)/acceptance: $(B)/tests/bench/acceptance.o $(B)/tests/transport.o $(OBJ)
$(B)/train $(B)/run $(B)/stories $(B)/suites $(B)/bench_ops $(B)/render_chat $(B)/tokenize_texts $(B)/random_model $(B)/chart $(B)/acceptance:
	$(LINK) $(LDFLAGS) -o $@ $^ $(GPULIBS) $(LDLIBS)

ifeq ($(CONFIG),fuzz)
$(B)/cpu/avx%.o: CFLAGS := -O1 # these take minutes to instrument; fuzz_model runs the plain kernels
endif
# What the fuzz targets put in the place of (tests/fuzz/files.h); an archive, so that each links only what it reaches.
FUZZED   := file_map_open file_map_close file_map_forget file_read_all file_exists file_list_open path_is_folder stat
$(B)/fuzz_opt: FUZZED += mem_text
$(B)/fuzz_tokenizer: FUZZED := # goes through files on disk
$(B)/lehr.a: $(OBJ) $(B)/train_options.o $(B)/tests/hostile.o $(B)/tests/fuzz/files.o
	@rm -f $@
	ar rcs $@ $^
$(B)/fuzz_%: $(B)/tests/fuzz/fuzz_%.o $(B)/lehr.a
	$(CC) $(LDFLAGS) $(FUZZED:%=-Wl,--wrap=%) -o $@ $^ $(LDLIBS)
.SECONDARY: $(patsubst %.c,$(B)/%.o,$(wildcard tests/fuzz/*.c))

$(B)/tests/%.o: OURS += -DPROGRAMS='"$(B)"'
$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(OURS) $(CFLAGS) $(ISA_$(basename $(notdir $<))) -c -o $@ $<

programs: $(B)/train $(B)/run $(B)/stories $(B)/random_model $(B)/chart
demo: train run $(B)/stories ## from nothing to new stories in about three minutes: corpus, tokenizer, training, text
	@sh tests/demo.sh

deps: ## install what the tests need (Criterion), when it is missing
	@sh tests/deps.sh

test: ## build and run every suite (needs Criterion: make deps)
	@$(MAKE) --no-print-directory CONFIG=test programs build/test/suites
	build/test/suites --jobs 2

$(B)/small_suites: $(patsubst %,$(B)/small/%.o,test_ops test_kernels test_blocks test_branches test_core) $(B)/tests/op_cases.o $(B)/tests/op_check.o $(B)/tests/small/small.o $(OBJ)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/small/%.o: tests/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Itests/small $(OURS) $(CFLAGS) -DPROGRAMS='"$(B)"' -c -o $@ $<

# Suites that run on the GPU as they are (tests/cuda/place.h).
ON_GPU    := families model tree accept branches exit
CUDATESTS := $(patsubst %.c,$(B)/%.o,$(wildcard tests/cuda/*.c)) $(ON_GPU:%=$(B)/tests/cuda/on_gpu/test_%.o) $(if $(filter shim%,$(CONFIG)),$(B)/tests/cuda/planted.o) \
             $(patsubst %,$(B)/tests/%.o,op_cases op_check hand ref_model scratch hostile variant_kit tokenizer_kit)
$(B)/tests/cuda/on_gpu/%.o: tests/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(OURS) $(CFLAGS) -DPROGRAMS='"$(B)"' -DLEHR_ON_GPU -include tests/cuda/place.h -c -o $@ $<
$(B)/cuda_suites: $(CUDATESTS) $(OBJ) $(if $(filter gpu,$(CONFIG)),$(B)/tests/small/small.o)
	$(LINK) $(LDFLAGS) -o $@ $^ $(GPULIBS) $(LDLIBS) $(if $(filter gpu,$(CONFIG)),,-lcriterion)
$(B)/%.o: %.cu
	@mkdir -p $(@D)
	$(CUDA_CC) -std=c++20 -I. -D_GNU_SOURCE -c -o $@ $<
$(B)/tests/cuda_on_cpu.o: tests/cuda_on_cpu.cpp
	@mkdir -p $(@D)
	$(CUDA_CC) -std=c++20 -I. -D_GNU_SOURCE -c -o $@ $<

shim: ## the kernels of cuda/ on this processor, one fiber for each thread of a GPU (needs Criterion, a C++ compiler); LEHR_LONG=1: all
	@$(MAKE) --no-print-directory CONFIG=shim build/shim/cuda_suites build/shim/run build/shim/train
	build/shim/cuda_suites --jobs 2

test-gpu: ## the same on the GPU of this machine; needs nvcc, no Criterion. WORDS="cuda/ families": tests with these in their names
	@$(MAKE) --no-print-directory CONFIG=gpu build/gpu/cuda_suites build/gpu/run build/gpu/train
	build/gpu/cuda_suites $(WORDS)

check-sass: ## what nvcc made of the kernels: no warnings, hardly a register spilled, tensor cores where they are meant; minutes
	@NVCC="$(NVCC)" KERNELS="$${KERNELS-gemm wgmma attend_bf16}" sh tests/check_sass.sh

check-arm: train ## the kernels of ARM in an emulator, and that nothing else assumes a processor; where cross compilers are
	+@sh tests/arm.sh
check-arm-long: train ## the same, with the plain level's ops
	+@LONG=1 sh tests/arm.sh

check-peers: run ## exports of every family against transformers and llama.cpp, where Python has them
	@if command -v $${PYTHON:-python3} >/dev/null; then $${PYTHON:-python3} tests/check_exports.py; \
	else echo "check-peers: left out, there is no Python"; fi

asan: ## the suites and programs under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory CONFIG=asan programs build/asan/suites
	ASAN_OPTIONS=detect_leaks=0 build/asan/suites --jobs 2

fuzz: ## coverage-guided fuzzing of every parser, FUZZ_SECONDS (60) each; FUZZ="gguf json" for some; needs clang
	+@sh tests/fuzz.sh

bench: run $(B)/bench_ops $(B)/chart ## speed of every op and of the shipped model; PEERS="llama-bench:NAME" MODELS="x.gguf": pairs with a peer
	@if [ -n "$(PEERS)$(MODELS)" ]; then PEERS="$(PEERS)" MODELS="$(MODELS)" sh tests/bench/peers.sh; \
	else $(B)/bench_ops && ./run --ceiling && ./run --bench; fi

bench-growth: run $(B)/random_model $(B)/chart ## tables of speed against context, rows of a pass, size and threads, with the floor beside
	@sh tests/bench/growth.sh

bench-train: train $(B)/stories $(B)/chart ## tokens to a stated loss, of optimizers and schedules tuned by one rule; PLAN=1 says how long, SMALL=1: seconds
	@sh tests/bench/target.sh

bench-train-peers: train $(B)/random_model ## training of the GPT-2 124M shape; PEERS="command:NAME": pairs with a peer
	@PEERS="$(PEERS)" sh tests/bench/train_peers.sh

bench-sweep: train $(B)/stories $(B)/chart ## loss over base rates: SHOW=mup over widths, SHOW=power over batches and lengths; PLAN=1 says how long
	@sh tests/bench/sweep.sh

bench-experts: train run $(B)/chart ## experts that learn code and prose under each kind of balancing; CODE= PROSE= CODE_VALID= PROSE_VALID= texts; PLAN=1 says how long
	@sh tests/bench/experts.sh

bench-acceptance: $(B)/acceptance ## how often each verifier of speculation takes a guess, beside the best; TARGET= DRAFT= models, TEXT= a text
	@sh tests/bench/acceptance.sh

bench-spec: run ## what guessing ahead is worth on each kind of text: MODEL= [DRAFT=] SETTINGS="auto model:4"
	@sh tests/bench/spec.sh

spec-exact: run ## texts with guesses against plain ones, byte for byte; MODEL= DRAFTERS="ngram model:FILE"; PLAN=1 says how long
	@sh tests/bench/spec_exact.sh

tidy: ## layers, long functions, words: taste that a machine can check
	@sh tests/tidy.sh

clean: ## remove everything built
	rm -rf build train run

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' Makefile

.PHONY: all programs demo deps test shim test-gpu check-sass check-arm check-arm-long check-peers asan fuzz bench bench-growth bench-train bench-train-peers bench-sweep bench-experts bench-acceptance bench-spec spec-exact tidy clean help
-include $(OBJ:.o=.d) $(TESTOBJ:.o=.d) $(wildcard $(B)/*.d $(B)/small/*.d $(B)/data/*.d $(B)/tests/bench/*.d $(B)/tests/tools/*.d $(B)/tests/fuzz/*.d $(B)/cuda/*.d $(B)/tests/cuda/*.d $(B)/tests/cuda/on_gpu/*.d $(B)/tests/cuda_on_cpu.d)
