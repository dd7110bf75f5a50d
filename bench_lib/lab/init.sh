#!/bin/busybox sh
# SPDX-License-Identifier: BSD-3-Clause
# Process 1 of a lab, which the kernel starts from the initramfs that initramfs.py makes.
#
# This script loads the modules that the lab needs, mounts the host's userland with a tmpfs layer
# over it, and executes the agent. The kernel command line sets the variables below, in which \0ooo
# stands for each byte that is special there (see qemu.py):
#
#     KICKBENCH_MODULES  the host's folder lib/modules/RELEASE of this kernel
#     KICKBENCH_SHARE    where the folder that the lab may write to is mounted
#     KICKBENCH_PYTHON   the host's Python
#     KICKBENCH_AGENT    the host's agent.py
b=/bin/busybox

# A reboot ends QEMU, because of -no-reboot.
die() {
	echo "kickbench: $*"
	$b reboot -f
}

decoded() {
	printf '%b' "$1"
}

nine_p() { # TAG TARGET OPTIONS
	$b mount -t 9p -o "trans=virtio,version=9p2000.L,msize=524288,access=any,$3" "$1" "$2" ||
		die "the 9p file system $1 of the host cannot be mounted"
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
	die "an overlay in memory cannot be mounted over the host's userland"

# The modules, where modprobe expects them; the kernel itself calls modprobe to load what a program
# uses. They are mounted before /run and the rest, which may hide the folder that they are in.
modules=/root/lib/modules/$($b uname -r)
$b mkdir -p "$modules"
$b mount -o bind "/root$(decoded "$KICKBENCH_MODULES")" "$modules" ||
	die "the folder of the kernel's modules cannot be mounted"

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

# kvm-intel and kvm-amd each load only on their own processors, and /dev/kvm exists once one of them
# is loaded. Errors are ignored here, because the agent reports what is missing.
while read -r module; do
	case $module in kvm-*) [ ! -e /root/dev/kvm ] || continue ;; esac
	$b insmod "/modules/$module" 2>/dev/null
done </modules/then

$b ip link set lo up
exec $b switch_root /root "$(decoded "$KICKBENCH_PYTHON")" -I -S "$(decoded "$KICKBENCH_AGENT")"
