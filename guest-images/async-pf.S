/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * async-pf: the guest whose vCPUs KVM halts in an asynchronous page fault.
 *
 * It is gup with interrupts on, and that is enough: KVM leaves a missing page to a worker and
 * halts a vCPU that could take an interrupt (kvm_vcpu_block), which every kernel can interrupt.
 * The local APIC has to be in the kernel, as it is by default.
 */
	.set	INTERRUPTS,	1
	.include "gup.S"
