/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pv-kvmclock: the guest whose vCPUs share a missing page with KVM's clock.
 *
 * KVM maps that page when the MSR is written, and keeps it mapped (gfn_to_pfn_cache). QEMU writes the
 * MSR while it loads a vCPU. If the page is missing then, the vCPU thread sleeps where only SIGKILL
 * reaches it (state D), and QEMU's main loop waits for that thread.
 * MSR_KVM_SYSTEM_TIME_NEW, Documentation/virt/kvm/x86/msr.rst.
 */
	.set	SHARED_MSR,	0x4b564d01
	.include "gup.S"
