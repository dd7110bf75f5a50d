/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The only program of the Linux guest: its process 1, with one thread bound to each CPU.
 *
 *     /init WORK MIB      arguments that the kernel passes on, after "--" in its command line
 *
 * Every thread loops over its own share of MIB MiB of memory. A pass first checks that each page
 * still holds what the pass before wrote, and then writes something new. Between two passes a
 * thread does WORK: nothing (memory), it sleeps (idle), or it computes (busy).
 *
 * The first serial line gets a byte after a pass: the number of the CPU. The second one is the
 * kernel's console, and gets a line about a page that has changed, in the words of gup.S:
 *     !damage vcpu=HH page=H... expected=H... found=H...
 * The number of the page counts from the beginning of the thread's share. The thread then stops.
 *
 * The program uses no C library, so that its binary is small enough to be committed, and is the
 * same guest on every host.
 */
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/sched.h>
#include <linux/time.h>

typedef unsigned long u64;

#define PAGE 4096ul
#define MIB (1ul << 20)
#define STACK (16 * 1024ul)
#define MAX_CPUS 1024
/* A mark is sent at most this often, so that marks never fill the line. */
#define MARK_NS 10000000ul
/* How long a thread sleeps or computes between two passes. */
#define BETWEEN_NS 20000000ul

enum work { MEMORY, IDLE, BUSY };

static enum work work;
static int marks, console;

static long call(long number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	register u64 r10 asm("r10") = d;
	register u64 r8 asm("r8") = e;
	register u64 r9 asm("r9") = f;
	long result;

	asm volatile("syscall"
		     : "=a"(result)
		     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	return result;
}

#define CALL3(n, a, b, c) call(__NR_##n, (u64)(a), (u64)(b), (u64)(c), 0, 0, 0)
#define CALL6(n, a, b, c, d, e, f) \
	call(__NR_##n, (u64)(a), (u64)(b), (u64)(c), (u64)(d), (u64)(e), (u64)(f))

static u64 length(const char *text)
{
	u64 n = 0;

	while (text[n])
		n++;
	return n;
}

static void print(const char *text)
{
	CALL3(write, console, text, length(text));
}

/* The kernel panics when process 1 exits, which ends the guest. */
static void die(const char *why)
{
	print("kickbench: ");
	print(why);
	print("\n");
	CALL3(exit_group, 1, 0, 0);
}

static void print_hex(u64 value, int digits)
{
	char text[17];
	int i;

	for (i = 0; i < digits; i++)
		text[i] = "0123456789abcdef"[value >> 4 * (digits - 1 - i) & 15];
	text[digits] = 0;
	print(text);
}

static u64 now_ns(void)
{
	struct __kernel_timespec now;

	CALL3(clock_gettime, CLOCK_MONOTONIC, &now, 0);
	return now.tv_sec * 1000000000ul + now.tv_nsec;
}

static void rest(void)
{
	struct __kernel_timespec span = { .tv_sec = 0, .tv_nsec = BETWEEN_NS };
	u64 end;

	if (work == IDLE)
		CALL3(nanosleep, &span, 0, 0);
	if (work == BUSY)
		for (end = now_ns() + BETWEEN_NS; now_ns() < end;)
			;
}

/* What a page holds after a pass. No two pages of a share, and no two passes, agree. */
static u64 content(u64 pass, u64 page)
{
	return pass << 32 | page;
}

static void damaged(u64 cpu, u64 page, u64 expected, u64 found)
{
	print("\n!damage vcpu=");
	print_hex(cpu, 2);
	print(" page=");
	print_hex(page, 16);
	print(" expected=");
	print_hex(expected, 16);
	print(" found=");
	print_hex(found, 16);
	print("\n");
	for (;;)
		CALL3(pause, 0, 0, 0);
}

/* Run one CPU's thread for ever. */
static void loop(u64 cpu, volatile char *share, u64 pages)
{
	u64 mask[MAX_CPUS / 64] = { 0 };
	u64 marked = 0, now, pass, page, expected, found;
	unsigned char mark = cpu;

	mask[cpu / 64] = 1ul << cpu % 64;
	if (CALL3(sched_setaffinity, 0, sizeof(mask), mask) < 0)
		die("a thread cannot be bound to its CPU");
	for (pass = 1;; pass++) {
		for (page = 0; page < pages; page++) {
			volatile u64 *word = (volatile u64 *)(share + page * PAGE);

			/* Fresh memory holds 0. */
			expected = pass == 1 ? 0 : content(pass - 1, page);
			found = *word;
			if (found != expected)
				damaged(cpu, page, expected, found);
			*word = content(pass, page);
		}
		now = now_ns();
		if (now - marked >= MARK_NS) {
			/* The line does not block: a mark that does not fit is left out. */
			CALL3(write, marks, &mark, 1);
			marked = now;
		}
		rest();
	}
}

static void start(u64 cpu, char *share, u64 pages)
{
	long stack, child;
	u64 flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
	register u64 r8 asm("r8") = 0;
	register u64 r10 asm("r10") = 0;
	register u64 r12 asm("r12") = cpu;
	register u64 r13 asm("r13") = (u64)share;
	register u64 r14 asm("r14") = pages;
	register u64 r15 asm("r15") = (u64)loop;

	stack = CALL6(mmap, 0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack < 0)
		die("there is no memory for a stack");
	/* The child has an empty stack, so it calls loop() with what the registers hold. */
	asm volatile("syscall\n\t"
		     "test %%rax, %%rax\n\t"
		     "jnz 1f\n\t"
		     "mov %%r12, %%rdi\n\t"
		     "mov %%r13, %%rsi\n\t"
		     "mov %%r14, %%rdx\n\t"
		     "call *%%r15\n"
		     "1:"
		     : "=a"(child)
		     : "a"(__NR_clone), "D"(flags), "S"(stack + STACK), "d"(0), "r"(r10), "r"(r8),
		       "r"(r12), "r"(r13), "r"(r14), "r"(r15)
		     : "rcx", "r11", "memory");
	if (child < 0)
		die("a thread cannot be started");
}

static u64 cpus(void)
{
	u64 mask[MAX_CPUS / 64] = { 0 }, count = 0;
	unsigned long i;

	CALL3(sched_getaffinity, 0, sizeof(mask), mask);
	for (i = 0; i < MAX_CPUS; i++)
		count += mask[i / 64] >> i % 64 & 1;
	return count;
}

/* Open a serial line whose bytes are sent as they are. */
static int serial(const char *path, int flags)
{
	struct termios raw = { .c_cflag = B115200 | CS8 | CREAD | CLOCAL };
	int fd = CALL3(open, path, O_WRONLY | O_NOCTTY | flags, 0);

	if (fd >= 0)
		CALL3(ioctl, fd, TCSETS, &raw);
	return fd;
}

static int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static u64 number(const char *text)
{
	u64 value = 0;

	for (; *text >= '0' && *text <= '9'; text++)
		value = value * 10 + (*text - '0');
	return value;
}

static void run(long argc, char **argv)
{
	u64 count, pages, cpu;
	long memory;

	CALL6(mount, "devtmpfs", "/dev", "devtmpfs", 0, 0, 0);
	console = serial("/dev/ttyS1", 0);
	marks = serial("/dev/ttyS0", O_NONBLOCK);
	if (marks < 0)
		die("there is no serial line for marks");
	if (argc != 3)
		die("the arguments are WORK and MIB");
	if (same(argv[1], "memory"))
		work = MEMORY;
	else if (same(argv[1], "idle"))
		work = IDLE;
	else if (same(argv[1], "busy"))
		work = BUSY;
	else
		die("there is no such work");
	count = cpus();
	pages = number(argv[2]) * MIB / PAGE / count;
	memory = CALL6(mmap, 0, pages * count * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory < 0 || !pages)
		die("there is no memory to work on");
	for (cpu = 1; cpu < count; cpu++)
		start(cpu, (char *)memory + cpu * pages * PAGE, pages);
	loop(0, (char *)memory, pages);
}

/* The kernel starts a process with argc and argv on its stack. */
asm(".globl _start\n"
    "_start:\n\t"
    "mov (%rsp), %rdi\n\t"
    "lea 8(%rsp), %rsi\n\t"
    "and $-16, %rsp\n\t"
    "call begin");

__attribute__((used)) static void begin(long argc, char **argv)
{
	run(argc, argv);
}
