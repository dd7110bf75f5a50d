/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pv-steal-time: the guest whose vCPUs share a missing page with KVM's account of stolen time.
 *
 * KVM writes that structure at every entry into the guest (record_steal_time). The kernel itself makes
 * this access, so it repeats a fault there for ever if a signal arrives that does not kill. A Linux
 * guest uses this feature wherever KVM offers it. MSR_KVM_STEAL_TIME,
 * Documentation/virt/kvm/x86/msr.rst.
 */
	.set	SHARED_MSR,	0x4b564d03
	.include "gup.S"
