# SPDX-License-Identifier: BSD-3-Clause
"""Check whether this machine meets a need, what it cannot do otherwise, and how to meet the need.

Preflight and the doctor both use these checks, so they give the same sentences. Needs that concern
more than the kernel and installed programs (the features of QEMU, whether tc can cut a link) are
checked by the code that uses them.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench_lib import architecture, libc, ptrace, threads
from bench_lib.errors import (
    CoreDumpsElsewhere,
    LibvirtMissing,
    NamespacesUnavailable,
    NotRoot,
    OnlyInLabs,
    ProgramMissing,
    ToolFailed,
)
from bench_lib.host import device, freezer, fuse, packages, setup, shell, userfaultfd
from bench_lib.host.need import Need
from bench_lib.process import CLONE_NEWNET, run_tool
from bench_lib.record import RequestName, ScenarioName
from bench_lib.settings import Settings

TOOLS = ("ip", "tc", "ss")
GDB = "gdb"
LIBVIRTD = "libvirtd"
PS = "ps"
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")

FUSERMOUNT = "fusermount3"
"""A program in the package that requires libfuse 3; that of the library has a version in its name.
"""

SWAP_MODULES = ("brd", "dm_mod")
NFS_MODULES = ("nfsd", "nfsv4")

PTRACE_NEVER = 3
"""The value of kernel.yama.ptrace_scope that forbids all tracing until the next boot."""


@dataclass(frozen=True)
class _Capability:
    """How a need is checked and met.

    :ivar check: returns what the host has, or raises an error that names what is missing.
    :ivar consequence: what the host cannot do if the need is not met.
    :ivar fix: returns a shell command that meets the need; None if kickbench knows none.
    """

    check: Callable[[Settings], str]
    consequence: str
    fix: Callable[[Settings], str | None] = lambda settings: None


def check(need: Need, settings: Settings) -> str:
    """Check a need, and return what the host has.

    :raise HostError: the need is not met; the class and the sentence name what is missing.
    """
    return _CAPABILITIES[need].check(settings)


def check_all(wanted: Collection[Need], settings: Settings) -> None:
    """Check needs in their order.

    :raise HostError: the first need that is not met.
    """
    for need in Need:
        if need in wanted:
            check(need, settings)


def consequence(need: Need) -> str:
    """What this host cannot do if the need is not met."""
    return _CAPABILITIES[need].consequence


def fix(need: Need, settings: Settings) -> str | None:
    """A shell command that meets a need; None if kickbench knows none."""
    return _CAPABILITIES[need].fix(settings)


def _programs(*names: str) -> str:
    """Check that programs are installed.

    :raise ProgramMissing: some are not on PATH; the sentence names all of them.
    """
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
    return f"{device.DEVICE} creates vCPUs; module: {setup.kvm_module() or 'none'}"


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
            "Trials create network namespaces and read kernel stacks, which needs root; run this "
            "command with sudo."
        )
    return "yes"


def _again_as_root(settings: Settings) -> str:
    return f"sudo {shlex.join([str(Path(sys.argv[0]).absolute()), *sys.argv[1:]])}"


def _install_qemu(settings: Settings) -> str | None:
    # If KICKBENCH_QEMU names another program, installing a package would not provide it.
    if settings.qemu != architecture.qemu_program():
        return "unset KICKBENCH_QEMU"
    return packages.install(settings.qemu)


def _namespaces(settings: Settings) -> str:
    def make() -> None:
        if libc.LIBC.unshare(CLONE_NEWNET) != 0:
            why = libc.error("unshare").strerror
            raise NamespacesUnavailable(
                f"Network namespaces cannot be created here: {why}. This needs "
                "root with CAP_SYS_ADMIN, and a kernel with network namespaces and veth."
            )

    # In a thread of its own, because the namespace ends with the thread.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(make).result()
    return "can be created"


def _userfaultfd(settings: Settings) -> str:
    userfaultfd.check()
    return "also handles the kernel's own page faults"


def _allow_userfaultfd(settings: Settings) -> str | None:
    # Not proposed to users other than root, because trials need root anyway.
    switch = Path("/proc/sys/vm/unprivileged_userfaultfd")
    helps = os.geteuid() == 0 and switch.exists() and switch.read_text().strip() == "0"
    return "sysctl -w vm.unprivileged_userfaultfd=1" if helps else None


def _stacks(settings: Settings) -> str:
    threads.observe(os.getpid(), threading.get_native_id())
    return "readable, as are the times of threads"


def _gdb(settings: Settings) -> str:
    _programs(GDB)
    try:
        return run_tool([GDB, "--version"]).splitlines()[0]
    except ToolFailed as error:
        raise ProgramMissing(f"{GDB} does not start: {error}") from None


def _ptrace(settings: Settings) -> str:
    ptrace.check()
    return "a process may trace its children"


def _ptrace_sibling(settings: Settings) -> str:
    ptrace.check(sibling=True)
    return "a process may trace its children and its siblings"


def _allow_ptrace(settings: Settings) -> str | None:
    if setup.ptrace_scope() in {None, 0, PTRACE_NEVER}:
        return None
    return shell.as_root("sysctl -w kernel.yama.ptrace_scope=0")


def _named(prefix: str) -> str:
    return ", ".join(each for each in ScenarioName if each.startswith(prefix))


def _ps(settings: Settings) -> str:
    _programs(PS)
    try:
        run_tool([PS, "-ww", "-o", "args=", "-p", str(os.getpid())])
        return run_tool([PS, "--version"]).strip()
    except ToolFailed as error:
        raise ProgramMissing(
            f"{PS} does not show the command line of one process; install that of procps: {error}"
        ) from None


def _freezer(settings: Settings) -> str:
    return freezer.check()


def _core_dumps(settings: Settings) -> str:
    pattern = CORE_PATTERN.read_text().strip()
    # See core(5): an absolute path, a program (|), or a socket (@, since Linux 6.16).
    if not pattern or pattern[0] in "|@" or "/" in pattern:
        raise CoreDumpsElsewhere(
            f"This host sends core dumps elsewhere (kernel.core_pattern is {pattern!r}), and "
            "kickbench would leave one behind; run `sysctl -w kernel.core_pattern=core`, or make "
            "the request in a lab (--kernel)."
        )
    return f"the kernel writes them to the working directory, as {pattern}"


def _dump_here(settings: Settings) -> str:
    return shell.as_root("sysctl -w kernel.core_pattern=core")


_NO_LINK = "no network link can be made or broken, so no migration can be tested"


def _libvirt(settings: Settings) -> str:
    missing = []
    if shutil.which(LIBVIRTD) is None:
        missing.append(LIBVIRTD)
    if importlib.util.find_spec("libvirt") is None:
        missing.append("libvirt-python")
    if missing:
        are, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise LibvirtMissing(
            f"{' and '.join(missing)} {are} not installed; `kickbench set-up --libvirt` installs "
            f"{them}."
        )
    return run_tool([LIBVIRTD, "--version"]).strip()


def _fuse(settings: Settings) -> str:
    return f"{fuse.DEVICE}, {fuse.check()}"


def _install_fuse(settings: Settings) -> str | None:
    if not fuse.DEVICE.exists():
        return shell.as_root("modprobe fuse")
    return packages.install(FUSERMOUNT)


def _only_in_labs(settings: Settings, why: str, *modules: str) -> str:
    """Check that this is a lab, and that its kernel has these modules.

    :param why: what would happen outside a lab, as the end of a sentence.
    :raise OnlyInLabs: this is not a lab, or a module is missing.
    """
    if settings.lab is None:
        raise OnlyInLabs(f"This scenario is staged only in labs, because {why}; use --kernel.")
    for module in modules:
        try:
            run_tool(["modprobe", "--dry-run", module])
        except ToolFailed:
            raise OnlyInLabs(
                f"The kernel of the lab has no module {module}; use a kernel with that module."
            ) from None
    return f"modules {', '.join(modules)}"


def _swap(settings: Settings) -> str:
    why = "it would push memory of this host out to a swap device that stops answering"
    return _only_in_labs(settings, why, *SWAP_MODULES)


def _nfs(settings: Settings) -> str:
    why = "it would start this host's own NFS server"
    return _only_in_labs(settings, why, *NFS_MODULES)


def _memory_control(settings: Settings) -> str:
    _only_in_labs(settings, "on most hosts another program manages the control groups")
    # /proc/cgroups does not list the memory controller on Linux 7.2 (measured), so the
    # memory controller is tried when it is used.
    if "cgroup2" not in Path("/proc/filesystems").read_text().split():
        raise OnlyInLabs(
            "The kernel of the lab has no control groups of version 2; use a kernel with them."
        )
    return "control groups of version 2"


def _install_libvirt(settings: Settings) -> str | None:
    kickbench = Path(sys.executable).parent / "kickbench"
    return shell.as_root(f"{shlex.quote(str(kickbench))} set-up --libvirt")


_CAPABILITIES = {
    Need.ARCHITECTURE: _Capability(_architecture, "no trial can run, neither here nor in a lab"),
    Need.KVM: _Capability(_kvm, "the booted kernel cannot be measured", _load_kvm),
    Need.ROOT: _Capability(_root, "no trial can run, neither here nor in a lab", _again_as_root),
    Need.QEMU: _Capability(
        lambda settings: _programs(settings.qemu), "no guest can be started", _install_qemu
    ),
    Need.NETWORK: _Capability(
        lambda settings: _programs(*TOOLS), _NO_LINK, lambda settings: packages.install(*TOOLS)
    ),
    Need.NAMESPACES: _Capability(_namespaces, _NO_LINK),
    Need.USERFAULTFD: _Capability(
        _userfaultfd,
        "no postcopy migration can run, so no guest can be made to hang on a missing page",
        _allow_userfaultfd,
    ),
    Need.STACKS: _Capability(_stacks, "kickbench cannot prove where in the kernel a vCPU is stuck"),
    Need.GDB: _Capability(
        _gdb,
        f"the request {RequestName.GDB_ATTACH} cannot be made",
        lambda settings: packages.install(GDB),
    ),
    Need.PTRACE: _Capability(
        _ptrace,
        f"the requests {RequestName.GDB_ATTACH} and {RequestName.PTRACE_INTERRUPT} cannot be made",
        _allow_ptrace,
    ),
    Need.PTRACE_SIBLING: _Capability(
        _ptrace_sibling, f"the request {RequestName.GDB_ATTACH} cannot be made", _allow_ptrace
    ),
    Need.FUSE: _Capability(
        _fuse,
        f"the scenarios {_named('fuse-')} cannot be staged",
        _install_fuse,
    ),
    Need.SWAP: _Capability(_swap, f"the scenarios {_named('swap-')} cannot be staged"),
    Need.NFS: _Capability(_nfs, f"the scenarios {_named('nfs-')} cannot be staged"),
    Need.PS: _Capability(
        _ps,
        f"the request {RequestName.PS} cannot be made",
        lambda settings: packages.install(PS),
    ),
    Need.FREEZER: _Capability(_freezer, f"the request {RequestName.CGROUP_FREEZE} cannot be made"),
    Need.CORE_DUMPS: _Capability(
        _core_dumps, f"the request {RequestName.CORE_DUMP} cannot be made", _dump_here
    ),
    Need.MEMORY_CONTROL: _Capability(
        _memory_control, f"the scenario {ScenarioName.MEMORY_HIGH} cannot be staged"
    ),
    Need.LIBVIRT: _Capability(_libvirt, "no trials with --manager libvirt", _install_libvirt),
}
