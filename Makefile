# lehr: `make help` says what there is. Objects live in build/<config>/, one folder per configuration:
#   release  what `make` builds          test  asserts, allocation guard, -O2          asan  the same under ASan and UBSan
CC      ?= cc
CONFIG  ?= release
B       := build/$(CONFIG)
ARCH    := $(shell $(CC) -dumpmachine 2>/dev/null | cut -d- -f1)

WARN    := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes
CFLAGS  ?= -O3
CPPFLAGS += -I. -D_GNU_SOURCE
OURS    := -std=c11 $(WARN) -g -ffp-contract=off -fno-math-errno -MMD -MP -pthread
LDLIBS  += -lm -pthread

ifeq ($(CONFIG),test)
  CFLAGS := -O2 -DLEHR_GUARD
else ifeq ($(CONFIG),asan)
  CFLAGS := -O1 -DLEHR_GUARD -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
  LDFLAGS += -fsanitize=address,undefined
endif

# Only the kernels may assume a processor; each file of them is compiled for its own and chosen at run time.
ifneq (,$(filter x86_64 amd64,$(ARCH)))
  ISA_avx2   := -mavx2 -mfma -mf16c
  ISA_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c
endif

MODULES := core formats tokenizer cpu model gen learn
SRC     := backend.c $(wildcard $(MODULES:%=%/*.c))
OBJ     := $(SRC:%.c=$(B)/%.o)
TESTSRC := $(wildcard tests/*.c)
TESTOBJ := $(TESTSRC:%.c=$(B)/%.o)

all: train run ## build ./train and ./run
train run: %: $(B)/%
	@cp -f $< $@
$(B)/train: $(B)/train.o $(B)/data/stories.o $(OBJ)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/run: $(B)/run.o $(OBJ)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/suites: $(TESTOBJ) $(OBJ)
	$(CC) $(LDFLAGS) -o $@ $^ -lcriterion $(LDLIBS)
$(B)/stories: data/stories.c $(wildcard data/*.h)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -O2 -std=c11 $(WARN) -o $@ $< -lm

$(B)/data/stories.o: CPPFLAGS += -DSTORIES_LIBRARY
$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(OURS) $(CFLAGS) $(ISA_$(basename $(notdir $<))) -c -o $@ $<

test-binaries: ## what `make test` runs, without running it
	@$(MAKE) --no-print-directory CONFIG=test build/test/suites build/test/train build/test/run build/test/stories

test: test-binaries ## build and run every suite (needs Criterion: `make deps`)
	build/test/suites --jobs 2

asan: ## the suites under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory CONFIG=asan build/asan/suites build/asan/train build/asan/run build/asan/stories
	build/asan/suites --jobs 2

tidy: ## layers, long functions, words: taste that a machine can check
	@sh tests/tidy.sh

clean: ## remove everything built
	rm -rf build train run

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

.PHONY: all test test-binaries asan tidy clean help
-include $(OBJ:.o=.d) $(TESTOBJ:.o=.d) $(B)/train.d $(B)/run.d $(B)/data/stories.d
