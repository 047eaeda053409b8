# SPDX-License-Identifier: GPL-2.0-or-later
# The unikernel guests: every directory beside lib/ and every tests/guest/*.c becomes build/guests/NAME.elf.
# Included by the Makefile at the top; alone: make -f guest-images/unikernel/rules.mk

UNIKERNEL_DIR := guest-images/unikernel
GUEST_CC      := gcc
GUEST_CFLAGS  := -std=gnu17 -O2 -g -Wall -Wextra -Werror -ffreestanding -nostdlib -static \
                 -fno-pie -no-pie -mno-red-zone -mgeneral-regs-only -fno-stack-protector \
                 -fcf-protection=none -fno-asynchronous-unwind-tables \
                 -fno-tree-loop-distribute-patterns -I. -I$(UNIKERNEL_DIR) -I$(UNIKERNEL_DIR)/lib
GUEST_LDFLAGS := -Wl,-T,$(UNIKERNEL_DIR)/lib/guest.ld -Wl,--build-id=none -Wl,-z,norelro
GUEST_LIB     := $(wildcard $(UNIKERNEL_DIR)/lib/*.c $(UNIKERNEL_DIR)/lib/*.S)
GUEST_HEADERS := $(wildcard $(UNIKERNEL_DIR)/*.h $(UNIKERNEL_DIR)/lib/*.h) \
                 guest-images/agent/agent_protocol.h
UNIKERNELS    := $(filter-out lib,$(notdir $(patsubst %/,%,$(wildcard $(UNIKERNEL_DIR)/*/))))
TEST_GUESTS   := $(basename $(notdir $(wildcard tests/guest/*.c)))
GUESTS        := $(patsubst %,build/guests/%.elf,$(UNIKERNELS) $(TEST_GUESTS))

.PHONY: guests
guests: $(GUESTS)

$(foreach g,$(UNIKERNELS),$(eval build/guests/$(g).elf: $(wildcard $(UNIKERNEL_DIR)/$(g)/*.c)))
$(foreach g,$(TEST_GUESTS),$(eval build/guests/$(g).elf: tests/guest/$(g).c))
$(GUESTS): $(GUEST_LIB) $(GUEST_HEADERS) $(UNIKERNEL_DIR)/lib/guest.ld $(UNIKERNEL_DIR)/rules.mk
	$(if $(say),$(call say,GUEST,$@))
	$(Q)mkdir -p $(@D) && $(GUEST_CC) $(GUEST_CFLAGS) $(GUEST_LDFLAGS) -o $@ $(filter %.c %.S,$^)
