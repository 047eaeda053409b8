# SPDX-License-Identifier: GPL-2.0-or-later
#
# make lab                 the whole lab: weft on emulated hosts with real SVM (docs/lab.md)
# make lab SCENARIO=name   some scenarios of it
# make lab-shell           a shell on an emulated host

# Programs that scenarios use.
LAB_PROGRAMS := $(patsubst %.c,$(B)/%,$(wildcard tests/lab/*.c))
$(LAB_PROGRAMS): LDLIBS += -lrdmacm -libverbs
$(LAB_PROGRAMS): %: %.o $(B)/libvnet.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
lab-build: all $(LAB_PROGRAMS)

lab lab-shell:
	$(Q)tools/deps build images lab
	$(Q)$(MAKE) --no-print-directory lab-build && tests/lab/run $(if $(filter lab-shell,$@),--shell,$(SCENARIO))
.PHONY: lab lab-shell lab-build
