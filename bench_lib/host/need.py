# SPDX-License-Identifier: BSD-3-Clause
"""What trials may need of a machine: the words alone, for what is only described by them."""

from __future__ import annotations

from enum import StrEnum


class Need(StrEnum):
    """One thing that trials may need; in the order in which they are checked.

    A host that lacks several things is refused for the first of them, so what others depend on
    comes first.
    """

    ARCHITECTURE = "architecture"
    """A CPU architecture that there are guest images for."""
    KVM = "kvm"
    """A /dev/kvm that makes virtual machines and vCPUs."""
    ROOT = "root"
    QEMU = "qemu"
    """The program that the settings name."""
    NETWORK = "network tools"
    """The programs that make links and break them."""
    NAMESPACES = "namespaces"
    """Network namespaces may be made."""
    USERFAULTFD = "userfaultfd"
    """A userfaultfd that handles the kernel's own faults, as postcopy does."""
    STACKS = "kernel stacks"
    """The kernel shows the stacks and times of threads."""
    GDB = "gdb"
    """A gdb that starts."""
    PTRACE = "ptrace"
    """A process may trace its own children."""
    PTRACE_SIBLING = "ptrace of a sibling"
    """A process may trace another child of its parent, as gdb does with QEMU."""


PROGRAMS = frozenset({Need.QEMU, Need.NETWORK, Need.GDB})
"""Needs that a lab shares with its host, whose programs it runs. It has a kernel, and so rights, of
its own."""
