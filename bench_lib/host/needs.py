# SPDX-License-Identifier: BSD-3-Clause
"""Whether this machine meets a need of trials, what is lost where it does not, and what meets it.

This is the only source of both answers that a user gets: preflight refuses a host by a need's
check, and the doctor's row shows the same sentence. Needs that take more than the kernel and
programs (what a QEMU offers, whether tc cuts a link) are found out by what uses them.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench_lib import architecture, ptrace, threads
from bench_lib.errors import NamespacesUnavailable, NotRoot, ProgramMissing, ToolFailed
from bench_lib.host import device, packages, setup, shell, userfaultfd
from bench_lib.host.need import Need
from bench_lib.process import CLONE_NEWNET, run_tool
from bench_lib.record import RequestName
from bench_lib.settings import Settings

TOOLS = ("ip", "tc", "ss")
GDB = "gdb"

PTRACE_NEVER = 3
"""Of kernel.yama.ptrace_scope: nobody may trace, and nobody may change that."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class _Capability:
    """How a need is met.

    :ivar check: tries it; what there is, or an error that says what is missing.
    :ivar lost: what this host cannot do without it.
    :ivar fix: a command that meets the need; None where none does.
    """

    check: Callable[[Settings], str]
    lost: str
    fix: Callable[[Settings], str | None] = lambda settings: None


def check(need: Need, settings: Settings) -> str:
    """Try whether a need is met; what there is.

    :raise HostError: it is not; the class and the sentence say what is missing.
    """
    return _CAPABILITIES[need].check(settings)


def check_all(wanted: Collection[Need], settings: Settings) -> None:
    """Try one need after the other.

    :raise HostError: for the first that is not met.
    """
    for need in Need:
        if need in wanted:
            check(need, settings)


def lost(need: Need) -> str:
    """What this host cannot do where the need is not met."""
    return _CAPABILITIES[need].lost


def fix(need: Need, settings: Settings) -> str | None:
    """A command that meets a need that is not met; None where none does."""
    return _CAPABILITIES[need].fix(settings)


def _programs(*names: str) -> str:
    """:raise ProgramMissing: some are not on PATH; the sentence names all of them."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        are, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise ProgramMissing(
            f"{', '.join(missing)} {are} not installed; `kickbench set-up` installs {them}."
        )
    return ", ".join(names)


def _architecture(settings: Settings) -> str:
    architecture.for_trials()
    return architecture.here().name


def _kvm(settings: Settings) -> str:
    device.check()
    return f"{device.DEVICE} makes vCPUs; {setup.kvm_module() or 'no module of its own'}"


def _load_kvm(settings: Settings) -> str | None:
    row = architecture.find()
    if row is None or device.DEVICE.exists():
        return None
    flags = set(Path("/proc/cpuinfo").read_text().split())
    fitting = (module.name for module in row.kvm_modules if module.flag in flags)
    module = next(fitting, None)
    return shell.as_root(f"modprobe {module}") if module else None


def _root(settings: Settings) -> str:
    if os.geteuid() != 0:
        raise NotRoot(
            "Trials make network namespaces and read kernel stacks, which needs root: "
            "run this with sudo."
        )
    return "yes"


def _again_as_root(settings: Settings) -> str:
    return f"sudo {shlex.join([str(Path(sys.argv[0]).absolute()), *sys.argv[1:]])}"


def _install_qemu(settings: Settings) -> str | None:
    # A setting is a program of the user's own, whatever is installed.
    if settings.qemu != architecture.qemu_program():
        return "unset KICKBENCH_QEMU"
    return packages.install(settings.qemu)


def _namespaces(settings: Settings) -> str:
    def make() -> None:
        if _libc.unshare(CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise NamespacesUnavailable(
                f"Network namespaces cannot be made here: {os.strerror(code)}. "
                "Trials need root, and a kernel with network namespaces and veth."
            )

    # In a thread of its own, which takes the namespace with it when it ends.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(make).result()
    return "may be made"


def _userfaultfd(settings: Settings) -> str:
    userfaultfd.check()
    return "handles the kernel's own faults"


def _allow_userfaultfd(settings: Settings) -> str | None:
    # Others than root need none of it, for trials take root.
    switch = Path("/proc/sys/vm/unprivileged_userfaultfd")
    helps = os.geteuid() == 0 and switch.exists() and switch.read_text().strip() == "0"
    return "sysctl -w vm.unprivileged_userfaultfd=1" if helps else None


def _stacks(settings: Settings) -> str:
    threads.observe(os.getpid(), threading.get_native_id())
    return "readable"


def _gdb(settings: Settings) -> str:
    _programs(GDB)
    try:
        return run_tool([GDB, "--version"]).splitlines()[0]
    except ToolFailed as error:
        raise ProgramMissing(f"{GDB} does not start: {error}") from None


def _ptrace(settings: Settings) -> str:
    ptrace.check()
    return "allowed"


def _ptrace_sibling(settings: Settings) -> str:
    ptrace.check(sibling=True)
    return "allowed"


def _allow_ptrace(settings: Settings) -> str | None:
    if setup.ptrace_scope() in {None, 0, PTRACE_NEVER}:
        return None
    return shell.as_root("sysctl -w kernel.yama.ptrace_scope=0")


_CAPABILITIES = {
    Need.ARCHITECTURE: _Capability(_architecture, "no trial, no lab"),
    Need.KVM: _Capability(_kvm, "the booted kernel cannot be measured", _load_kvm),
    Need.ROOT: _Capability(_root, "no trial, no lab", _again_as_root),
    Need.QEMU: _Capability(lambda settings: _programs(settings.qemu), "no guest", _install_qemu),
    Need.NETWORK: _Capability(
        lambda settings: _programs(*TOOLS),
        "no link to break",
        lambda settings: packages.install(*TOOLS),
    ),
    Need.NAMESPACES: _Capability(_namespaces, "no link to break"),
    Need.USERFAULTFD: _Capability(_userfaultfd, "nothing can be stranded", _allow_userfaultfd),
    Need.STACKS: _Capability(_stacks, "no fault path can be proved"),
    Need.GDB: _Capability(
        _gdb, f"no {RequestName.GDB_ATTACH}", lambda settings: packages.install(GDB)
    ),
    Need.PTRACE: _Capability(
        _ptrace, f"no {RequestName.GDB_ATTACH}, no {RequestName.PTRACE_INTERRUPT}", _allow_ptrace
    ),
    Need.PTRACE_SIBLING: _Capability(
        _ptrace_sibling, f"no {RequestName.GDB_ATTACH}", _allow_ptrace
    ),
}
