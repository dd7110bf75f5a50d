"""What trials may need of this machine."""

from __future__ import annotations

from enum import StrEnum


class Need(StrEnum):
    """One thing that a scenario or a request may need."""

    NETWORK = "network tools"
    """The programs that make links and break them."""
    GDB = "gdb"
    """A gdb that starts."""
    PTRACE = "ptrace"
    """A process may trace its own children."""
    PTRACE_SIBLING = "ptrace of a sibling"
    """A process may trace another child of its parent, as gdb does with QEMU."""
