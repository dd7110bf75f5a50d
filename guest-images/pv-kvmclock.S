/*
 * pv-kvmclock: the guest whose vCPUs share a missing page with KVM's clock.
 *
 * KVM keeps that page mapped (gfn_to_pfn_cache) from the moment when the MSR is written, which QEMU
 * does while it loads a vCPU: a fault there sleeps killable, and QEMU's main loop waits for it.
 * MSR_KVM_SYSTEM_TIME_NEW, Documentation/virt/kvm/x86/msr.rst.
 */
	.set	SHARED_MSR,	0x4b564d01
	.include "gup.S"
