/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a vCPU comes in, and where interrupts come in.
 *
 * Interrupts and exceptions arrive on the running stack (CPL 3 to CPL 3 does not switch it) through
 * trap gates, with IF left on. So a handler can be interrupted by a higher vector; one of the same
 * or a lower priority class waits for the end-of-interrupt. That is written as late as possible: an
 * interrupt that comes in the few instructions behind it nests, and all others do not. Only general
 * registers are saved: everything is compiled with -mgeneral-regs-only, so handlers cannot touch
 * SSE state.
 */
#include "weft_boot.h"

#define VECTOR_SPURIOUS 255

	.section .note.weft, "a", @note
	.balign 4
	.long 5, 4, WEFT_NOTE_RING3
	.asciz WEFT_NOTE_NAME
	.balign 4
	.long guest_note_flags

	.text
	.globl guest_entry
guest_entry:
	and $-16, %rsp
	xor %ebp, %ebp
	call guest_start
	ud2

/*
 * One stub of 16 bytes a vector, at interrupt_stubs + 16 * vector. Exceptions 8, 10-14, 17, 21, 29
 * and 30 push an error code; the others get a 0 in its place.
 */
	.balign 16
	.globl interrupt_stubs
interrupt_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if vector >= 32 || !(1 << (vector & 31) & 0x60227d00)
	push $0
	.endif
	push $vector
	jmp interrupt_common
	.set vector, vector + 1
	.endr

interrupt_common:
	cld
	push %rax
	push %rcx
	push %rdx
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	mov %rsp, %rdi
	call interrupt_dispatch
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rdx
	pop %rcx
	cmpl $VECTOR_SPURIOUS, 8(%rsp)
	je 1f
	mov lapic_eoi(%rip), %rax
	movl $0, (%rax)
1:	pop %rax
	add $16, %rsp
	iretq

/*
 * void cpu_idle(uint32_t seen): sleep until an interrupt, unless interrupts_taken differs from
 * @seen. An interrupt between the comparison and the end of the OUT must not be slept over: the
 * dispatcher moves a return address in [cpu_idle_check, cpu_idle_end) to cpu_idle_end.
 */
	.globl cpu_idle, cpu_idle_check, cpu_idle_end
cpu_idle:
	mov $WEFT_PORT_IDLE, %edx
	xor %eax, %eax
cpu_idle_check:
	cmp %edi, interrupts_taken(%rip)
	jne cpu_idle_end
	out %al, %dx
cpu_idle_end:
	ret

	.section .note.GNU-stack, "", @progbits
