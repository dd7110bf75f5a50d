/*
 * pv-steal-time: the guest whose vCPUs share a missing page with KVM's account of stolen time.
 *
 * KVM writes that structure at every entry into the guest (record_steal_time), by an access of the
 * kernel's own: a fault there is retried for ever on a signal that does not kill. A Linux guest
 * has this feature on wherever KVM offers it. MSR_KVM_STEAL_TIME, Documentation/virt/kvm/x86/msr.rst.
 */
	.set	SHARED_MSR,	0x4b564d03
	.include "gup.S"
