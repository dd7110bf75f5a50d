#!/bin/busybox sh
# SPDX-License-Identifier: BSD-3-Clause
# The first process of a lab, started by the kernel from an initramfs that initramfs.py makes.
#
# Loads the modules that the lab needs, mounts the host's userland with a layer of memory over it,
# and becomes the agent. The kernel command line gives what is set here from outside, with \0ooo for
# every character that is special there (see vm.py):
#
#     KICKBENCH_MODULES  the host's folder lib/modules/RELEASE of this kernel
#     KICKBENCH_SHARE    where the folder that the lab may write to is mounted
#     KICKBENCH_PYTHON   the host's Python
#     KICKBENCH_AGENT    the host's agent.py
b=/bin/busybox

# QEMU ends when the lab would start again.
die() {
	echo "kickbench: $*"
	$b reboot -f
}

decoded() {
	printf '%b' "$1"
}

nine_p() { # TAG TARGET OPTIONS
	$b mount -t 9p -o "trans=virtio,version=9p2000.L,msize=524288,access=any,$3" "$1" "$2" ||
		die "the host's $1 cannot be mounted"
}

$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev

while read -r module; do
	$b insmod "/modules/$module" || die "the module $module cannot be loaded"
done </modules/first

nine_p kickbench-root /lower ro,cache=loose
$b mount -t tmpfs tmpfs /layer
$b mkdir /layer/upper /layer/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work overlay /root ||
	die "no layer of memory can be put over the host's userland"

# For modprobe, and for the kernel, which calls it when somebody uses what is not loaded.
# Now, because they may be in a folder that is hidden by what is mounted next, such as /run.
modules=/root/lib/modules/$($b uname -r)
$b mkdir -p "$modules"
$b mount -o bind "/root$(decoded "$KICKBENCH_MODULES")" "$modules" ||
	die "the kernel's modules cannot be seen"

for name in proc sys dev; do
	$b mount -o move "/$name" "/root/$name"
done
$b mkdir /root/dev/pts /root/dev/shm
$b mount -t devpts -o mode=620,ptmxmode=666 devpts /root/dev/pts
$b mount -t tmpfs -o mode=1777 tmpfs /root/dev/shm
$b ln -s /proc/self/fd /root/dev/fd
$b ln -s /proc/self/fd/0 /root/dev/stdin
$b ln -s /proc/self/fd/1 /root/dev/stdout
$b ln -s /proc/self/fd/2 /root/dev/stderr
$b mount -t tmpfs -o mode=755 tmpfs /root/run
share=/root$(decoded "$KICKBENCH_SHARE")
$b mkdir -p "$share"
nine_p kickbench-share "$share" cache=none

# KVM's are for one kind of processor each; the kernel makes the device when the right one is
# loaded. The agent looks at what is missing.
while read -r module; do
	case $module in kvm-*) [ ! -e /root/dev/kvm ] || continue ;; esac
	$b insmod "/modules/$module" 2>/dev/null
done </modules/then

$b ip link set lo up
exec $b switch_root /root "$(decoded "$KICKBENCH_PYTHON")" -I -S "$(decoded "$KICKBENCH_AGENT")"
