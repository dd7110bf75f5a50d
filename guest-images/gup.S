/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * gup: the guest whose vCPUs get stuck in get_user_pages(). Its variants define a symbol and
 * include this file:
 *     INTERRUPTS    async-pf.S: the loop runs with interrupts on
 *     UNPAGED       uaccess.S: the loop runs at CPL 0 in flat 32-bit mode, without paging
 *     SHARED_MSR    pv-*.S: KVM keeps a structure of its own in the last page of each share;
 *                   the value is the number of the MSR that tells KVM where
 *
 * A 64 KiB firmware image. Every vCPU runs in 64-bit mode with paging on, at CPL 3 and
 * with interrupts off, and loops over its own share of memory. A pass first checks that
 * each page still holds the number of the pass before, then writes its own number.
 *
 * Why this mode: with interrupts on, KVM may halt the vCPU in an asynchronous page fault,
 * which every kernel can interrupt; without paging, some hosts run the guest in KVM's
 * emulator, whose page faults are kernel accesses and never come from get_user_pages().
 *
 * Memory, by guest-physical address:
 *     0x7000  parameters, put there by QEMU before the first vCPU runs (three 64-bit words):
 *             pages in the whole span, number of vCPUs, pages of memory below the hole
 *     0x8000  this code, copied out of the firmware
 *    0x10000  the two upper page tables
 *   0x100000  page directories: 2 MiB pages, accessed and dirty bits already set; 4 KiB per GiB of
 *             memory, so there is room for 256 GiB
 *   0x200000  the span: every page from here on, an equal share per vCPU
 *
 * A PC has a hole for devices below 4 GiB, and the memory that does not fit below the hole starts at
 * 4 GiB. The page tables leave out the hole: a virtual address is an offset in memory, and it is also
 * the physical address if the memory is below the hole. The unpaged guest has no more memory than that.
 *
 * After the start only the span is written. So the code and the page tables arrive on a
 * migration's destination with its first pass and only the span can be missing there:
 * a missing page table would be read by KVM itself and be another fault path.
 * For the same reason the loop uses no stack.
 *
 * The first serial port (COM1) has the marks: a vCPU that finished a pass sends one byte, its
 * number (0 to 254). So vCPUs need no lock.
 *
 * The second serial port (COM2) has text. The only text of this guest is one line for each vCPU
 * that found a page damaged, and that stops then:
 *     "!damage vcpu=HH page=H... expected=H... found=H...", in lowercase hex
 */
	.set	PARAM_PAGES,	0x7000
	.set	PARAM_VCPUS,	0x7008
	.set	PARAM_LOW,	0x7010
	.set	LOAD,		0x8000
	.set	PML4,		0x10000
	.set	PDPT,		0x11000
	.set	PAGE_DIRS,	0x100000
	.set	SPAN,		0x200000
	.set	COM1,		0x3f8
	.set	COM2,		0x2f8
	.set	LAPIC_ICR,	0xfee00300
	.set	SHARED_OFFSET,	64	/* in the page; steal time has to be aligned so */

	.set	SEL_CODE32,	0x08
	.set	SEL_DATA,	0x10
	.set	SEL_CODE64,	0x18
	.set	SEL_USER_CODE,	0x20 | 3
	.set	SEL_USER_DATA,	0x28 | 3

	.set	TABLE,		0x27	/* present, writable, user, accessed */
	.set	PAGE_2M,	0xe7	/* the same, dirty, 2 MiB */
	.set	RFLAGS_USER,	0x3002	/* IOPL 3 so that CPL 3 may use the serial ports; IF off */
	.ifdef	INTERRUPTS
	.set	RFLAGS_USER,	RFLAGS_USER | 0x200	/* IF on */
	.endif

	.section .guest, "ax"
	.globl	_start
	.code16
_start:					/* every vCPU: the first from the stub, the others by SIPI */
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	lgdtl	gdt_pointer
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$SEL_CODE32, $protected

	.code32
protected:
	movl	$SEL_DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	$1, %ebx
	lock xaddl %ebx, started	/* %ebx: this vCPU's number */
	testl	%ebx, %ebx
	jnz	awake

	.ifdef	INTERRUPTS
	/* There is no IDT, so no interrupt may ever come: the PICs are all that starts unmasked. */
	movb	$0xff, %al
	outb	%al, $0x21
	outb	%al, $0xa1
	.endif

	/* The first vCPU maps the first 2 MiB and the span ... */
	movl	PARAM_PAGES, %ecx
	addl	$(512 + 511), %ecx
	shrl	$9, %ecx
	movl	$PAGE_DIRS, %edi
	movl	$PAGE_2M, %eax
	xorl	%edx, %edx
	movl	PARAM_LOW, %ebp
	shll	$12, %ebp
	orl	$PAGE_2M, %ebp		/* the entry that would be the first in the hole */
1:	movl	%eax, (%edi)
	movl	%edx, 4(%edi)
	addl	$0x200000, %eax
	adcl	$0, %edx
	cmpl	%ebp, %eax
	jne	2f
	movl	$PAGE_2M, %eax		/* go on at 4 GiB; there is one hole only */
	movl	$1, %edx
	xorl	%ebp, %ebp
2:	addl	$8, %edi
	loop	1b
	movl	$(PDPT + TABLE), PML4
	addl	$TABLE, %edi
	movl	$PDPT, %esi
	movl	$(PAGE_DIRS + TABLE), %eax
3:	movl	%eax, (%esi)
	addl	$8, %esi
	addl	$0x1000, %eax
	cmpl	%edi, %eax
	jb	3b

	/* ... and wakes the others: INIT, then SIPI with this code's page, to all but itself. */
	cmpl	$1, PARAM_VCPUS
	jbe	awake
	movl	$0xc4500, LAPIC_ICR
	movl	$(0xc4600 + (LOAD >> 12)), LAPIC_ICR

awake:
	.ifdef	UNPAGED
	/* The share: from %ebp up to %ecx. %esi: the pass, whose upper half in memory stays 0. */
	xorl	%edx, %edx
	movl	PARAM_PAGES, %eax
	divl	PARAM_VCPUS
	shll	$12, %eax
	movl	%eax, %ecx
	mull	%ebx
	leal	SPAN(%eax), %ebp
	addl	%ebp, %ecx
	movl	$1, %esi

unpaged:
	movl	%ebp, %edi
	leal	-1(%esi), %eax		/* fresh memory holds 0, which is the pass before the first */
1:	cmpl	%eax, (%edi)
	jne	enter_long_mode		/* damage: only to report it is gup's mode entered */
	cmpl	$0, 4(%edi)
	jne	enter_long_mode
	movl	%esi, (%edi)
	addl	$4096, %edi
	cmpl	%ecx, %edi
	jb	1b
	movl	%ebx, %eax
	movl	$COM1, %edx
	outb	%al, %dx
	incl	%esi
	jmp	unpaged
	.endif

enter_long_mode:
	movl	$PML4, %eax
	movl	%eax, %cr3
	movl	%cr4, %eax
	orl	$0x20, %eax		/* PAE */
	movl	%eax, %cr4
	movl	$0xc0000080, %ecx	/* EFER */
	rdmsr
	orl	$0x100, %eax		/* LME */
	wrmsr
	movl	%cr0, %eax
	orl	$0x80000000, %eax	/* PG */
	movl	%eax, %cr0
	ljmpl	$SEL_CODE64, $long_mode

	/* Turn an offset in memory into a guest-physical address, by leaving out the hole. */
	.macro	PHYSICAL address, scratch, scratch32
	movl	PARAM_LOW, \scratch32
	shlq	$12, \scratch
	cmpq	\scratch, \address
	jb	7f
	subq	\scratch, \address
	movl	$1, \scratch32
	shlq	$32, \scratch
	addq	\scratch, \address
7:
	.endm

	.code64
long_mode:
	.ifdef	UNPAGED
	leaq	-1(%rsi), %r9
	movq	(%rdi), %r10
	.else
	/* The share: %r12 pages from %r13 on. %r8: the pass. */
	xorl	%edx, %edx
	movl	PARAM_PAGES, %eax
	divl	PARAM_VCPUS
	movl	%eax, %r12d
	imulq	%rbx, %rax
	shlq	$12, %rax
	leaq	SPAN(%rax), %r13
	movl	$1, %r8d

	.ifdef	SHARED_MSR
	/*
	 * The last page of the share is always dirty, so it is missing after the switch of a
	 * migration, when KVM touches its structure before the vCPU runs. (The first page may not
	 * be: QEMU sends dirty pages from the beginning of memory on, a few a second, also those
	 * that nothing has asked for.) The page's first word, which alone is checked, stays the
	 * guest's. Bit 0 of the MSR enables the feature.
	 */
	movq	%r12, %rax
	shlq	$12, %rax
	leaq	(SHARED_OFFSET + 1 - 4096)(%r13, %rax), %rax
	PHYSICAL %rax, %rdx, %edx
	movq	%rax, %rdx
	shrq	$32, %rdx
	movl	$SHARED_MSR, %ecx
	wrmsr
	.endif

	leaq	stack_top, %rsp		/* iretq only pops from it: vCPUs can share it for reading */
	iretq

user:
	movq	%r13, %rdi
	movq	%r12, %rcx
	leaq	-1(%r8), %r9		/* fresh memory holds 0, which is the pass before the first */
2:	movq	(%rdi), %r10
	cmpq	%r9, %r10
	jne	damage
	movq	%r8, (%rdi)
	addq	$4096, %rdi
	decq	%rcx
	jnz	2b
	movl	%ebx, %eax
	movl	$COM1, %edx
	outb	%al, %dx
	incq	%r8
	jmp	user
	.endif

damage:					/* %rbx: the vCPU, %rdi: the page, %r9: expected, %r10: found */
	lock btsl $0, reporting		/* one line at a time */
	jnc	3f
	pause
	jmp	damage
3:	movl	$COM2, %edx
	.macro	PRINT text:vararg
	leaq	9f, %rsi
	leaq	8f, %rbp
	jmp	print
9:	.asciz	\text
8:
	.endm
	.macro	HEX value, digits
	movq	\value, %rax
	movl	$(\digits), %ecx
	leaq	8f, %rbp
	jmp	print_hex
8:
	.endm
	PRINT	"\n!damage vcpu="
	HEX	%rbx, 2
	PHYSICAL %rdi, %rax, %eax
	shrq	$12, %rdi
	PRINT	" page="
	HEX	%rdi, 16
	PRINT	" expected="
	HEX	%r9, 16
	PRINT	" found="
	HEX	%r10, 16
	PRINT	"\n"
	movl	$0, reporting
4:	pause
	jmp	4b

print:					/* text at %rsi, back to %rbp */
	lodsb
	testb	%al, %al
	jz	5f
	outb	%al, %dx
	jmp	print
5:	jmp	*%rbp

print_hex:				/* the low %ecx digits of %rax, back to %rbp */
	movl	%ecx, %r11d
	shll	$2, %ecx
	rorq	%cl, %rax		/* the first digit is now in the highest four bits ... */
	movq	%rax, %r15
6:	rolq	$4, %r15		/* ... and comes round to the lowest */
	movl	%r15d, %eax
	andl	$15, %eax
	movb	digits(%rax), %al
	outb	%al, %dx
	decl	%r11d
	jnz	6b
	jmp	*%rbp

digits:	.ascii	"0123456789abcdef"

	.balign	8
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* 32-bit code */
	.quad	0x00cf93000000ffff	/* data */
	.quad	0x00af9b000000ffff	/* 64-bit code */
	.quad	0x00affb000000ffff	/* 64-bit code, CPL 3 */
	.quad	0x00cff3000000ffff	/* data, CPL 3 */
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt

	.balign	8
	.ifndef	UNPAGED
stack_top:				/* what iretq pops: into CPL 3 */
	.quad	user, SEL_USER_CODE, RFLAGS_USER, 0, SEL_USER_DATA
	.endif
started:
	.long	0
reporting:
	.long	0
guest_end:

	/* The processor starts at the last 16 bytes, in real mode. */
	.section .stub, "ax"
	.code16
stub:
	cli
	cld
	movw	$0xf000, %ax
	movw	%ax, %ds
	movw	$(LOAD >> 4), %ax
	movw	%ax, %es
	xorw	%si, %si
	xorw	%di, %di
	movw	$((guest_end - _start + 3) / 4), %cx
	rep movsl			/* out of ROM: under kvm_pvm code in ROM gets no further than a page */
	ljmpw	$0, $LOAD

	.section .reset, "ax"
	.code16
	jmp	stub
