/* SPDX-License-Identifier: BSD-3-Clause */
/* Measure the same wake as the probe, but in C. The difference is what Python adds.
 *
 *     wake gup-write|healthy COUNT DEADLINE_S REST_US
 *
 * REST_US is how many microseconds pass before each signal, after the vCPU was seen stuck or running.
 * Prints the nanoseconds from each signal until KVM_RUN has returned, one number per line. Exits
 * with status 3 after a wake that did not happen before its deadline. The vCPU and its memory are
 * set up as in bench_lib/kvm/vcpu.py; only the code that takes the time is different.
 * tools/compare_wakes.py builds and runs this program.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CODE 0x1000
#define PML4 0x2000
#define PDPT 0x3000
#define PAGE_DIRECTORY 0x4000
#define LOW_BYTES 0x10000
#define HUGE_PAGE (2ul << 20)
#define ENTRIES 256
#define HUNG 3

static void must(long result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* As in the probe, the first CPU sends the signals, and the last one runs the vCPU. */
static void keep_to(int last)
{
	cpu_set_t all, one;
	int cpu, chosen = -1;

	must(sched_getaffinity(0, sizeof(all), &all), "sched_getaffinity");
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &all) && (last || chosen < 0))
			chosen = cpu;
	CPU_ZERO(&one);
	CPU_SET(chosen, &one);
	must(sched_setaffinity(0, sizeof(one), &one), "sched_setaffinity");
}

static void *missing_page(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	void *memory = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register all = {
		.range = { (uintptr_t)memory, HUGE_PAGE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	must(fd, "userfaultfd");
	must(ioctl(fd, UFFDIO_API, &api), "UFFDIO_API");
	must(ioctl(fd, UFFDIO_REGISTER, &all), "UFFDIO_REGISTER");
	return memory;
}

static void add_memory(int vm, int slot, uint64_t address, void *memory, uint64_t size)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = address,
		.memory_size = size,
		.userspace_addr = (uintptr_t)memory,
	};

	must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

static int vcpu_of(const uint8_t *code, size_t size, void *target)
{
	uint8_t *low = mmap(NULL, LOW_BYTES, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_cpuid2 *cpuid =
		calloc(1, sizeof(*cpuid) + ENTRIES * sizeof(struct kvm_cpuid_entry2));
	struct kvm_segment segment = {
		.limit = 0xffffffff, .selector = 0x23, .type = 0xb,
		.present = 1, .dpl = 3, .s = 1, .l = 1, .g = 1,
	};
	struct kvm_segment data = segment, task = segment;
	struct kvm_sregs special;
	struct kvm_regs registers = {
		.rdi = HUGE_PAGE, .rsi = HUGE_PAGE, .rip = CODE, .rflags = 0x3002,
	};
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, vcpu;

	must(kvm, "/dev/kvm");
	must(vm = ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	must(ioctl(vm, KVM_SET_TSS_ADDR, 0x40000000), "KVM_SET_TSS_ADDR");
	memcpy(low + CODE, code, size);
	*(uint64_t *)(low + PML4) = PDPT | 0x27;
	*(uint64_t *)(low + PDPT) = PAGE_DIRECTORY | 0x27;
	((uint64_t *)(low + PAGE_DIRECTORY))[0] = 0xe7;
	((uint64_t *)(low + PAGE_DIRECTORY))[1] = HUGE_PAGE | 0xe7;
	add_memory(vm, 0, 0, low, LOW_BYTES);
	add_memory(vm, 1, HUGE_PAGE, target, HUGE_PAGE);
	must(vcpu = ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	cpuid->nent = ENTRIES;
	must(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), "KVM_GET_SUPPORTED_CPUID");
	must(ioctl(vcpu, KVM_SET_CPUID2, cpuid), "KVM_SET_CPUID2");
	must(ioctl(vcpu, KVM_GET_SREGS, &special), "KVM_GET_SREGS");
	data.selector = 0x2b;
	data.type = 3;
	data.l = 0;
	data.db = 1;
	task.selector = 0x30;
	task.dpl = task.s = task.l = 0;
	task.db = 1;
	special.cs = segment;
	special.ds = special.es = special.fs = special.gs = special.ss = data;
	special.tr = task;
	special.cr0 = 0x80000011;
	special.cr2 = 0;
	special.cr3 = PML4;
	special.cr4 = 0x20;
	special.cr8 = 0;
	special.efer = 0x500;
	must(ioctl(vcpu, KVM_SET_SREGS, &special), "KVM_SET_SREGS");
	must(ioctl(vcpu, KVM_SET_REGS, &registers), "KVM_SET_REGS");
	return vcpu;
}

static void work(int vcpu, int output)
{
	struct kvm_run *run = mmap(NULL, sizeof(*run), PROT_READ, MAP_SHARED, vcpu, 0);
	struct {
		struct kvm_signal_mask mask;
		uint64_t bits;
	} __attribute__((packed)) unblocked = { .mask.len = 8 };
	struct timespec none = { 0 };
	uint64_t back_ns = 0;
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	must(ioctl(vcpu, KVM_SET_SIGNAL_MASK, &unblocked), "KVM_SET_SIGNAL_MASK");
	for (;;) {
		must(write(output, &back_ns, sizeof(back_ns)), "write");
		if (ioctl(vcpu, KVM_RUN, 0) == 0) {
			fprintf(stderr, "the guest exited for reason %u\n", run->exit_reason);
			exit(1);
		}
		if (errno != EINTR)
			must(-1, "KVM_RUN");
		back_ns = now_ns();
		sigtimedwait(&signals, NULL, &none);
	}
}

/* As in the probe, the vCPU is stuck when two consecutive stacks show the fault. */
static void wait_until_stuck(pid_t pid)
{
	char path[64], stack[4096];
	int seen = 0;

	snprintf(path, sizeof(path), "/proc/%d/stack", pid);
	while (seen < 2) {
		int fd = open(path, O_RDONLY);
		ssize_t size = read(fd, stack, sizeof(stack) - 1);

		close(fd);
		must(size, path);
		stack[size] = 0;
		seen = strstr(stack, "handle_userfault") ? seen + 1 : 0;
	}
}

static long long cpu_ns(pid_t pid)
{
	char path[64], text[128];
	int fd;
	ssize_t size;

	snprintf(path, sizeof(path), "/proc/%d/schedstat", pid);
	fd = open(path, O_RDONLY);
	size = read(fd, text, sizeof(text) - 1);
	close(fd);
	must(size, path);
	text[size] = 0;
	return atoll(text);
}

/* As in the probe, the vCPU runs when it has used CPU time, which the kernel accounts at each tick. */
static void wait_until_running(pid_t pid)
{
	long long before = cpu_ns(pid);

	do
		usleep(1000);
	while (cpu_ns(pid) == before);
}

int main(int argc, char **argv)
{
	static const uint8_t write_code[] = { 0x48, 0x89, 0x07, 0xeb, 0xfb };
	static const uint8_t spin_code[] = { 0xeb, 0xfe };
	int healthy, count, deadline_ms, rest_us, ends[2];
	uint64_t back_ns;
	pid_t pid;

	if (argc != 5)
		return 2;
	healthy = !strcmp(argv[1], "healthy");
	count = atoi(argv[2]);
	deadline_ms = 1000 * atoi(argv[3]);
	rest_us = atoi(argv[4]);
	must(pipe(ends), "pipe");
	must(pid = fork(), "fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		keep_to(1);
		if (healthy)
			work(vcpu_of(spin_code, sizeof(spin_code),
				     mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE,
					  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
			     ends[1]);
		work(vcpu_of(write_code, sizeof(write_code), missing_page()), ends[1]);
	}
	close(ends[1]);
	keep_to(0);
	if (read(ends[0], &back_ns, sizeof(back_ns)) != sizeof(back_ns))
		return 1;
	while (count--) {
		struct pollfd back = { .fd = ends[0], .events = POLLIN };
		uint64_t sent_ns;

		if (healthy)
			wait_until_running(pid);
		else
			wait_until_stuck(pid);
		usleep(rest_us);
		sent_ns = now_ns();
		syscall(SYS_tgkill, pid, pid, SIGUSR1);
		if (poll(&back, 1, deadline_ms) == 0) {
			kill(pid, SIGKILL);
			return HUNG;
		}
		if (read(ends[0], &back_ns, sizeof(back_ns)) != sizeof(back_ns))
			return 1;
		printf("%llu\n", (unsigned long long)(back_ns - sent_ns));
	}
	kill(pid, SIGKILL);
	return 0;
}
