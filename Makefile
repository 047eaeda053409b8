# SPDX-License-Identifier: GPL-2.0-or-later
#
# make              build weft, weft-ctl, vnetd and the unikernel guests
# make demo         two Linux VMs on one overlay: ping and iperf3 between them
# make test         every test; ends with "N passed, N failed, N skipped"
# make bench        measure, and draw it in docs/bench (QUICK=1: fewer samples, in build/plots)
# make lab          weft on emulated hosts (SCENARIO=name: only that), make lab-shell: a shell on one
# make lint         clang-tidy and cppcheck
# make fuzz-smoke   each fuzz target for some seconds (FUZZ_SECONDS=10)
# make install      into PREFIX (/usr/local)
# make deps         install the Debian packages that all of this needs
#
# STATIC=1          a static VMM with musl;  SAN=address|thread: with sanitizers
# V=1               show the commands

VERSION := 0.1

# --- build variants: each has its own directory --------------------------------------------
CC       := gcc
VARIANT  := $(if $(STATIC),static,$(if $(SAN),$(SAN),.))
B        := $(patsubst %/.,%,build/$(VARIANT))
OPT      := -O2 -g
CFLAGS   := $(OPT) -std=c17 -Wall -Wextra -Werror -Wstrict-prototypes -Wmissing-prototypes \
            -fno-strict-aliasing -fstack-protector-strong -D_FORTIFY_SOURCE=2
CPPFLAGS := -D_GNU_SOURCE -I. -I$(B) -DWEFT_VERSION='"$(VERSION)"' -MMD -MP
LDFLAGS  := -Wl,-z,relro,-z,now
LDLIBS   := -luring -linih -ljson-c -lseccomp -lsodium -lz -llzma -lzstd -llz4

ifeq ($(SAN),address)
CFLAGS  := $(filter-out -D_FORTIFY_SOURCE=2,$(CFLAGS)) -fsanitize=address,undefined \
           -fno-sanitize-recover=undefined -fno-omit-frame-pointer
LDFLAGS += -fsanitize=address,undefined
else ifeq ($(SAN),thread)
CFLAGS  := $(filter-out -D_FORTIFY_SOURCE=2,$(CFLAGS)) -fsanitize=thread -fno-omit-frame-pointer
LDFLAGS += -fsanitize=thread
CPPFLAGS += -Itests/unit/tsan # Criterion itself cannot run under TSan; this stands in for it
else ifeq ($(SAN),fuzz)
CC      := clang
CFLAGS  := -O1 -g -std=c17 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
LDFLAGS := -fsanitize=fuzzer,address,undefined
endif

ifdef SAN
CPPFLAGS += -DWEFT_SANITIZED
endif

# musl has headers and a libc of its own: of the system's only those named here are shown to it.
ifdef STATIC
CC       := musl-gcc
MUSL     := $(B)/musl
CPPFLAGS += -DWEFT_STATIC -isystem $(MUSL)/include
CFLAGS   := $(filter-out -D_FORTIFY_SOURCE=2,$(CFLAGS)) -Os -fno-pie
LDFLAGS  += -static -no-pie -s -L$(MUSL)/lib
MUSL_INCLUDE := linux asm-generic rdma video liburing liburing.h ini.h json-c seccomp.h seccomp-syscalls.h \
                sodium sodium.h \
                zlib.h zconf.h lzma lzma.h zstd.h zstd_errors.h lz4.h
$(MUSL): Makefile
	@mkdir -p $@/include $@/lib && ln -sfn /usr/include/x86_64-linux-gnu/asm $@/include/asm
	@for h in $(MUSL_INCLUDE); do ln -sfn /usr/include/$$h $@/include/$$h; done
	@for l in $(LDLIBS:-l%=%); do ln -sfn /usr/lib/x86_64-linux-gnu/lib$$l.a $@/lib/lib$$l.a; done
	@touch $@
endif

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' $(1) $(2))

# --- what there is ---------------------------------------------------------------------------
VMM_SRC   := $(filter-out vmm/main.c,$(wildcard vmm/*.c)) guest-images/agent/agent_frames.c
VNET_SRC  := $(filter-out $(if $(STATIC),vnet/ib_%.c),$(wildcard vnet/*.c))
VNET_OBJ  := $(patsubst %.c,$(B)/%.o,$(VNET_SRC))
LIB_OBJ   := $(VNET_OBJ) $(patsubst %.c,$(B)/%.o,$(wildcard devices/*.c) $(VMM_SRC))
UNIT      := $(patsubst tests/unit/%.c,$(B)/unit/%,$(wildcard tests/unit/test_*.c))
UNIT_HELP := $(patsubst %.c,$(B)/%.o,$(filter-out tests/unit/test_%,$(wildcard tests/unit/*.c)))
FUZZ      := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
C_FILES   := $(wildcard vmm/*.c devices/*.c vnet/*.c tools/*.c guest-images/agent/*.c)

PROGRAMS  := $(addprefix $(B)/,weft weft-ctl vnetd $(if $(STATIC),,weft-top))

all: $(PROGRAMS) guests

$(B)/weft: $(B)/vmm/main.o $(B)/libweft.a
$(B)/weft-ctl: $(B)/tools/weft-ctl.o $(B)/tools/control_client.o $(B)/libweft.a
$(B)/weft-top: $(B)/tools/weft-top.o $(B)/tools/control_client.o
$(B)/vnetd: $(B)/tools/vnetd.o $(B)/libvnet.a
$(B)/weft-top: LDLIBS := -lncurses -ltinfo -ljson-c -lm
$(PROGRAMS): $(if $(STATIC),$(B)/vmm/musl_fortify.o)
$(PROGRAMS):
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/libweft.a: $(LIB_OBJ)
$(B)/libvnet.a: $(VNET_OBJ)
$(B)/%.a:
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $^

$(B)/%.o: %.c | $(MUSL)
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

# The ACPI platform description, as a C array.
$(B)/dsdt.hex: vmm/dsdt.asl
	$(call say,IASL,$@)
	$(Q)mkdir -p $(@D) && iasl -tc -p $(B)/dsdt $< > $(B)/dsdt.log || { cat $(B)/dsdt.log; false; }
$(B)/vmm/acpi.o: $(B)/dsdt.hex

include guest-images/unikernel/rules.mk tests/lab/rules.mk

# --- tests -----------------------------------------------------------------------------------
$(B)/unit/%: $(B)/tests/unit/%.o $(UNIT_HELP) $(B)/libweft.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) $(if $(filter thread,$(SAN)),,-lcriterion)

unit: $(UNIT)

# Small measurements of one mechanism.
$(B)/bench/%: $(B)/tests/bench/%.o $(B)/libvnet.a
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/bench/pingpong: $(B)/guest-images/tty/pingpong.o
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(LDFLAGS) -o $@ $^

build/fuzz/fuzz_%: build/fuzz/tests/fuzz/fuzz_%.o $(addprefix build/fuzz/tests/unit/,ring_driver.o fake_verbs.o) \
		build/fuzz/libweft.a
	$(call say,FUZZ,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

fuzz:
	$(Q)$(MAKE) --no-print-directory SAN=fuzz $(FUZZ)

# What the benchmark runs on hosts, and in guests.
bench-build: build/bench/udp_gso build/bench/pingpong build/bench/jitter
	$(Q)$(MAKE) --no-print-directory STATIC=1 build/static/bench/udp_gso

# Everything the tests run: ordinary, sanitized and static builds, guests, images.
test-build: all unit images fuzz bench-build
	$(Q)$(MAKE) --no-print-directory SAN=address all unit
	$(Q)$(MAKE) --no-print-directory SAN=thread unit
	$(Q)$(MAKE) --no-print-directory STATIC=1 all

# --- what people call ------------------------------------------------------------------------
images:
	$(Q)guest-images/kernel/build --auto >/dev/null && guest-images/tty/build >/dev/null

demo:
	$(Q)tools/deps build images
	$(Q)$(MAKE) --no-print-directory all images && tools/demo

test:
	$(Q)tools/deps build images test && { tools/deps lab || true; }
	$(Q)$(MAKE) --no-print-directory test-build && tests/run

bench:
	$(Q)tools/deps build images bench
	$(Q)$(MAKE) --no-print-directory all images bench-build && $(MAKE) --no-print-directory STATIC=1 all
	$(Q)tools/weft-bench $(if $(QUICK),--quick --plots build/plots,--plots docs/bench --json docs/bench/results.json && tools/docs)

lint:
	$(Q)tools/deps build lint && $(MAKE) --no-print-directory all && tools/lint

FUZZ_SECONDS := 10
fuzz-smoke: fuzz
	$(Q)for f in $(FUZZ:build/fuzz/%=%); do mkdir -p build/corpus/$$f; \
		build/fuzz/$$f -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 build/corpus/$$f \
		tests/fuzz/corpus/$${f#fuzz_} || exit 1; done

deps:
	$(Q)tools/deps build images test bench lint lab

# --- installing ------------------------------------------------------------------------------
PREFIX  := /usr/local
DESTDIR :=
MAN     := $(patsubst docs/man/%,build/man/%,$(wildcard docs/man/*.1))
man: $(MAN)
# @OPTIONS@ stands for the options that the programs describe themselves.
build/man/%.1: docs/man/%.1 $(PROGRAMS)
	$(Q)mkdir -p $(@D) && { ! grep -q '^@OPTIONS@$$' $< || build/$* --man; } | sed -e '/^@OPTIONS@$$/{r /dev/stdin' -e 'd}' $< > $@

install: all man
	install -D -t $(DESTDIR)$(PREFIX)/bin $(PROGRAMS) tools/weft-cluster
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 $(MAN)
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/bash-completion/completions tools/completion/*

clean:
	rm -rf build

-include $(shell find build -name '*.d' 2>/dev/null)
.PHONY: all unit fuzz guests images man demo test test-build bench bench-build lint fuzz-smoke install deps clean
.SECONDARY:
