# SPDX-License-Identifier: BSD-3-Clause
"""The names of what trials may need of a machine, apart from the code that checks it."""

from __future__ import annotations

from enum import StrEnum


class Need(StrEnum):
    """One thing that trials may need. The members are in the order in which they are checked.

    A host that lacks several things is refused because of the first one, so a need comes before
    those that depend on it.
    """

    ARCHITECTURE = "architecture"
    """A CPU architecture for which kickbench has guest images."""
    KVM = "kvm"
    """A /dev/kvm that creates virtual machines and vCPUs."""
    ROOT = "root"
    """The rights of root."""
    QEMU = "qemu"
    """The QEMU that the settings name."""
    NETWORK = "network tools"
    """The programs that make and break network links."""
    NAMESPACES = "namespaces"
    """The right to create network namespaces."""
    USERFAULTFD = "userfaultfd"
    """A userfaultfd that also handles the kernel's own page faults, as postcopy requires."""
    STACKS = "kernel stacks"
    """A kernel that shows the stacks and times of threads."""
    GDB = "gdb"
    """A gdb that starts."""
    PTRACE = "ptrace"
    """The right of a process to trace its children."""
    PTRACE_SIBLING = "ptrace of a sibling"
    """The right of a process to trace another child of its parent, as gdb does with QEMU."""
    PS = "ps"
    """A ps that shows the command line of one process, as that of procps does."""
    FREEZER = "freezer"
    """A hierarchy of cgroups in which processes can be frozen."""
    CORE_DUMPS = "core dumps"
    """A kernel that writes the core dump of a process into the process's own working directory."""
    FUSE = "FUSE"
    """The means to serve a FUSE file system: /dev/fuse, libfuse 3 and mfusepy."""
    SWAP = "swap of a lab"
    """A lab whose kernel has RAM disks and the device mapper."""
    NFS = "NFS of a lab"
    """A lab whose kernel has a server and a client of NFS version 4."""
    MEMORY_CONTROL = "memory control of a lab"
    """A lab whose kernel has version 2 of control groups with the memory controller."""
    LIBVIRT = "libvirt"
    """libvirtd, and a libvirt-python that kickbench's Python can import."""


PROGRAMS = frozenset({Need.QEMU, Need.NETWORK, Need.GDB, Need.LIBVIRT, Need.PS})
"""The needs that a lab shares with its host, because it runs the host's programs. The other needs
depend on the kernel and on privileges, and a lab does not share those with its host."""
