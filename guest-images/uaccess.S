/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * uaccess: the guest whose missing pages are faulted by a copy of the kernel's own.
 *
 * It is gup without paging, at CPL 0 in 32-bit mode. Where KVM runs such code in its emulator
 * (kvm_pvm), the emulator copies a page's words from QEMU's memory, and the fault of that copy
 * is retried for ever on a signal that does not kill: no kernel lets go of such a vCPU. Where
 * the processor itself runs such code, this image takes gup's path.
 */
	.set	UNPAGED,	1
	.include "gup.S"
