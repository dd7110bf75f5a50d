"""What this host can measure, and what is missing for more: one row a check.

What can be tried is, in the way that trials go about it; the rest is what the kernel's files say.
Nothing of the host is installed, set or left behind.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench_lib import architecture, interrupt, ownership, ptrace, threads
from bench_lib.deadline import Deadline
from bench_lib.errors import (
    HostBusy,
    HostError,
    KernelError,
    KickbenchError,
    LabUnavailable,
    ProgramMissing,
    ToolFailed,
)
from bench_lib.guest import debugger, features
from bench_lib.host import device, identity, setup, userfaultfd
from bench_lib.kernel import btf
from bench_lib.kernel.store import Store
from bench_lib.lab import machine
from bench_lib.network import link, outage
from bench_lib.ownership import Run
from bench_lib.process import run_tool
from bench_lib.record import Backing, RequestName, ScenarioName, Setup, Shape
from bench_lib.settings import CHECKOUT, Settings
from bench_lib.trial import leftovers, preflight
from bench_lib.trial.case import Case

QEMU_LIMIT_S = 20.0
"""How long QEMU may take to say what it can."""

BUILD_MIB = 1024
"""Of disk that a kernel takes at the most while it is fetched and unpacked."""

BUSY = 0.5
"""Runnable threads a CPU from which on a host is not left to the measurement."""

PTRACE_NEVER = 3
"""Of kernel.yama.ptrace_scope: nobody may trace, and nobody may change that."""

STEP_MIB = 64
"""What is proposed is a multiple of it, and as much less than there is, which changes."""

LEAST_LAB_MIB = 1024
"""With less memory a lab does not boot and run trials."""

SMT_CONTROL = setup.SYSTEM / "smt/control"


class Status(StrEnum):
    """How a check came out."""

    FINE = "fine"
    DEGRADED = "degraded"
    """Something will be missing in the results, or wrong with them."""
    MISSING = "missing"
    """Without it there are none."""


@dataclass(frozen=True)
class Row:
    """One check.

    :ivar found: what is there.
    :ivar means: what follows from that for results; "" where the row is fine.
    :ivar mend: a command that makes the row fine; None where none does.
    """

    name: str
    status: Status
    found: str
    means: str = ""
    mend: str | None = None


NATIVE = ("root", "kvm", "userfaultfd", "kernel stacks", "qemu", "network tools", "outages")
"""Rows that may not be missing for trials under the booted kernel."""

LAB = ("root", "qemu", "network tools", "virtme-ng", "lab memory", "lab disk")
"""The same for trials in the lab."""


def native_runs(rows: list[Row]) -> bool:
    """Whether trials can run under the booted kernel."""
    return not _missing(rows, NATIVE)


def lab_runs(rows: list[Row]) -> bool:
    """Whether they can in the lab."""
    return not _missing(rows, LAB)


def _missing(rows: list[Row], names: tuple[str, ...]) -> bool:
    return any(row.name in names and row.status is Status.MISSING for row in rows)


def examine(settings: Settings) -> Iterator[Row]:
    """Check after check. Each is as quick as it can be; all together take some seconds."""
    facts = setup.of_this_machine()
    yield _kernel()
    yield _root()
    yield _kvm(facts)
    yield nesting_row(facts)
    yield _userfaultfd()
    yield _stacks()
    yield from _qemu(settings)
    yield _tools()
    yield from _outages(settings)
    yield _gdb()
    yield _ptrace(facts)
    yield _huge_pages()
    yield _libvirt()
    yield _virtme()
    yield _lab_memory(settings)
    yield _lab_disk(settings)
    yield _governor(facts)
    yield _turbo(facts)
    yield _smt(facts)
    yield _load()
    yield _leftovers(settings)


def _as_root(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


def _write(value: str, path: str) -> str:
    return f"echo {value} | {_as_root('tee')} {path}"


def _install(*packages: str) -> str:
    # A new machine has no list of packages yet.
    update, install = _as_root("apt-get update"), _as_root("apt-get install")
    return f"{update} && {install} --yes --no-install-recommends {' '.join(packages)}"


def _set_up() -> str:
    return shlex.quote(str(CHECKOUT / "tools" / "set-up"))


def _tried(
    name: str, check: Callable[[], str], status: Status, means: str, mend: str | None
) -> Row:
    """A row of what a check says, or of why it failed. :param status: then."""
    try:
        return Row(name, Status.FINE, check())
    except (KickbenchError, OSError) as error:
        return Row(name, status, str(error), means, mend)


def _kernel() -> Row:
    kernel = identity.booted()
    label = btf.booted_label()
    return Row(
        "kernel",
        Status.FINE,
        f"{kernel.release} {kernel.version}; its types say interruptible: {label}",
    )


def _root() -> Row:
    if os.geteuid() == 0:
        return Row("root", Status.FINE, "yes")
    return Row(
        "root",
        Status.MISSING,
        "an ordinary user",
        "trials make network namespaces and read kernel stacks, which takes root",
        f"sudo {shlex.join([str(Path(sys.argv[0]).absolute()), *sys.argv[1:]])}",
    )


def _kvm(facts: Setup) -> Row:
    mend = None
    if not device.DEVICE.exists():
        flags = set(Path("/proc/cpuinfo").read_text().split())
        row = architecture.find()
        known = row.kvm_modules if row else ()
        module = next((each.name for each in known if each.flag in flags), None)
        mend = _as_root(f"modprobe {module}") if module else None

    def check() -> str:
        device.check()
        return f"{device.DEVICE} makes vCPUs; {facts.kvm or 'no module of its own'}"

    return _tried("kvm", check, Status.MISSING, "the booted kernel cannot be measured", mend)


def nesting_row(facts: Setup) -> Row:
    """What the lab runs on, and why. :param facts: of this machine."""
    module = facts.kvm
    if machine.accelerator() == "kvm":
        return Row("nesting", Status.FINE, "the lab's kernels run on KVM")
    why = "KVM does not nest here"
    mend = None
    keep = ""
    if facts.nested:
        why = f"{module} nests, but {device.DEVICE} does not work (see kvm)"
    elif module in {"kvm_intel", "kvm_amd"}:
        mend = _as_root(f"sh -c 'modprobe -r {module} && modprobe {module} nested=1'")
        keep = f"; the line `options {module} nested=1` in /etc/modprobe.d keeps it over a boot"
    elif module:
        why = f"{module} has no nesting"
    return Row(
        "nesting",
        Status.DEGRADED,
        f"{why}; the lab's kernels are emulated (tcg)",
        f"the lab tells who hangs, not how many milliseconds an answer takes{keep}",
        mend,
    )


def _userfaultfd() -> Row:
    def check() -> str:
        userfaultfd.check()
        return "handles the kernel's own faults"

    # Others than root need none of it, for trials take root.
    switch = Path("/proc/sys/vm/unprivileged_userfaultfd")
    helps = os.geteuid() == 0 and switch.exists() and switch.read_text().strip() == "0"
    mend = "sysctl -w vm.unprivileged_userfaultfd=1" if helps else None
    return _tried("userfaultfd", check, Status.MISSING, "nothing can be stranded", mend)


def _stacks() -> Row:
    def check() -> str:
        threads.observe(os.getpid(), threading.get_native_id())
        return "readable"

    return _tried("kernel stacks", check, Status.MISSING, "no fault path can be proved", None)


def _qemu(settings: Settings) -> Iterator[Row]:
    async def ask(run: Run) -> features.Features:
        return await features.ask(run, settings.qemu, Deadline.after(QEMU_LIMIT_S))

    # The setting is one of its own, whatever is installed.
    mend = "unset KICKBENCH_QEMU"
    if settings.qemu == architecture.qemu_program():
        mend = _install("qemu-system-x86")
    try:
        # It needs no lock, for a QEMU that only answers disturbs nobody.
        with tempfile.TemporaryDirectory() as folder, ownership.measuring(Path(folder)) as run:
            found = interrupt.run(ask(run))
    except HostError as error:
        yield Row("qemu", Status.MISSING, str(error), "no guest", mend)
        return
    if missing := found.missing():
        yield Row(
            "qemu",
            Status.MISSING,
            f"{found.version} lacks {', '.join(missing)}",
            "no migration; KICKBENCH_QEMU may name a later one",
        )
        return
    yield Row("qemu", Status.FINE, f"{found.version}, up to {found.max_vcpus} vCPUs")
    if found.missing(preempt=True):
        yield Row(
            "preemption",
            Status.DEGRADED,
            f"QEMU {found.version} has no {features.PREEMPT}",
            "no guests of --preempt; it came with QEMU 7.1",
        )
    else:
        yield Row("preemption", Status.FINE, features.PREEMPT)


def _tools() -> Row:
    missing = [name for name in preflight.TOOLS if shutil.which(name) is None]
    if missing:
        return Row(
            "network tools",
            Status.MISSING,
            f"no {', '.join(missing)}",
            "no link to break",
            _install("iproute2"),
        )
    return Row("network tools", Status.FINE, ", ".join(preflight.TOOLS))


def _outages(settings: Settings) -> Iterator[Row]:
    """Each mechanism, tried on a link that is made for that."""
    if os.geteuid() != 0:
        yield Row("outages", Status.MISSING, "not tried", "it takes root to break a link")
        return

    async def survey(run: Run) -> dict[str, str | None]:
        with link.joined(run, 0) as probe:
            return await outage.survey(probe)

    try:
        with ownership.measuring(settings.runtime) as run:
            answers = interrupt.run(survey(run))
    except HostBusy as error:
        yield Row("outages", Status.DEGRADED, "not tried", f"{error} Then ask again.")
        return
    except HostError as error:
        mend = _install("iproute2") if isinstance(error, ProgramMissing) else None
        yield Row("outages", Status.MISSING, str(error), "no link to break", mend)
        return
    yield from outage_rows(answers)


def outage_rows(answers: dict[str, str | None]) -> Iterator[Row]:
    """:param answers: of `outage.survey`."""
    yield _mechanisms(
        "outages", outage.MECHANISMS, answers, Status.MISSING, "tc cuts no link", None
    )
    yield _mechanisms(
        "slow links",
        outage.DEGRADATIONS,
        answers,
        Status.DEGRADED,
        f"no trials in {ScenarioName.DEGRADED}",
        f"links in {ScenarioName.DEGRADED} are slow, but neither late nor lossy",
    )


def _mechanisms(
    name: str,
    mechanisms: tuple[outage.Mechanism, ...],
    answers: dict[str, str | None],
    status: Status,
    without_any: str,
    without_first: str | None,
) -> Row:
    """:param status: if none works. :param without_first: what another than the first means."""
    names = [each.name for each in mechanisms]
    working = [each for each in names if answers[each] is None]
    found = ", ".join(working)
    failed = "; ".join(
        # What tc said, without the command that it was said to.
        f"not {each}: {answer.rpartition('): ')[2]}"
        for each in names
        if (answer := answers[each])
    )
    if failed:
        found = f"{found} ({failed})" if found else failed
    if not working:
        return Row(name, status, found, without_any, _netem())
    if without_first and working[0] != names[0]:
        mend = _netem()
        why = "" if mend else "; this kernel has no sch_netem"
        return Row(name, Status.DEGRADED, found, f"{without_first}{why}", mend)
    return Row(name, Status.FINE, found)


def _netem() -> str | None:
    """What loads netem, where this kernel was built with it."""
    try:
        run_tool(["modinfo", "sch_netem"])
    except KickbenchError:
        return None
    return _as_root("modprobe sch_netem")


def _gdb() -> Row:
    def check() -> str:
        debugger.check_gdb()
        return run_tool(["gdb", "--version"]).splitlines()[0]

    return _tried("gdb", check, Status.DEGRADED, f"no {RequestName.GDB_ATTACH}", _install("gdb"))


def _ptrace(facts: Setup) -> Row:
    def check() -> str:
        ptrace.check(sibling=True)
        return "allowed"

    means = f"no {RequestName.GDB_ATTACH}, no {RequestName.PTRACE_INTERRUPT}"
    mend = None
    if facts.ptrace_scope == PTRACE_NEVER:
        means += "; kernel.yama.ptrace_scope can only be set lower by a boot"
    elif facts.ptrace_scope:
        mend = _as_root("sysctl -w kernel.yama.ptrace_scope=0")
    return _tried("ptrace", check, Status.DEGRADED, means, mend)


def _huge_pages() -> Row:
    usual = Case(
        ScenarioName.BLACKHOLE, RequestName.STOP, Shape(backing=Backing.HUGETLB)
    ).huge_pages
    free = setup.free_huge_pages()
    if free >= usual:
        return Row("huge pages", Status.FINE, f"{free} free")
    return Row(
        "huge pages",
        Status.DEGRADED,
        f"{free} free",
        f"no guests of backing {Backing.HUGETLB}, which take {usual}",
        setup.more_huge_pages(usual, "tee" if os.geteuid() == 0 else "sudo tee"),
    )


def _libvirt() -> Row:
    try:
        found = f"libvirt {run_tool(['virsh', '--version']).strip()}"
    except (ToolFailed, HostError):
        found = "not installed"
    return Row("libvirt", Status.FINE, f"{found}; no trial uses it")


def _virtme() -> Row:
    needed = {"udevadm": "udev", "busybox": "busybox-static", "modprobe": "kmod"}
    missing = [package for name, package in needed.items() if shutil.which(name) is None]
    if not (machine.BIN / "vng").exists():
        return Row("virtme-ng", Status.MISSING, "not installed", "no lab", _set_up())
    if missing:
        found = f"virtme-ng lacks {', '.join(missing)}"
        return Row("virtme-ng", Status.MISSING, found, "no lab boots", _install(*missing))
    return Row("virtme-ng", Status.FINE, "with all that it calls")


def _lab_memory(settings: Settings) -> Row:
    available_mib = setup.memory_mib("MemAvailable")
    try:
        machine.check_host(settings)
    except LabUnavailable as error:
        fits = ((available_mib or 0) - machine.SPARE_MIB) // STEP_MIB * STEP_MIB - STEP_MIB
        mend = f"export KICKBENCH_LAB_MEMORY={fits}" if fits >= LEAST_LAB_MIB else None
        return Row("lab memory", Status.MISSING, str(error), "no lab boots", mend)
    return Row("lab memory", Status.FINE, f"{available_mib} MiB available")


def _lab_disk(settings: Settings) -> Row:
    elsewhere = "export KICKBENCH_CACHE=/a/folder/with/more"
    try:
        there = next(each for each in (settings.cache, *settings.cache.parents) if each.exists())
        free_mib = shutil.disk_usage(there).free >> 20
        builds = len(Store.of(settings).all())
    except PermissionError:
        found = f"{settings.cache} is not this user's"
        return Row("lab disk", Status.MISSING, found, "no kernel can be fetched", elsewhere)
    except KernelError as error:
        return Row("lab disk", Status.MISSING, str(error), "no lab boots")
    found = f"{builds} kernels fetched; {free_mib} MiB free for more in {settings.cache}"
    if free_mib >= BUILD_MIB:
        return Row("lab disk", Status.FINE, found)
    return Row(
        "lab disk",
        Status.DEGRADED if builds else Status.MISSING,
        found,
        f"no kernel more can be fetched, for one takes up to {BUILD_MIB} MiB",
        elsewhere,
    )


def _governor(facts: Setup) -> Row:
    governor = facts.governor
    if governor == "performance":
        return Row("governor", Status.FINE, governor)
    if governor is None:
        return Row(
            "governor",
            Status.DEGRADED,
            "the kernel has no say over the frequency, as in a virtual machine",
            "whoever has may let it vary, and latencies with it",
        )
    return Row(
        "governor",
        Status.DEGRADED,
        governor,
        "latencies vary with the frequency",
        _write("performance", "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"),
    )


def _turbo(facts: Setup) -> Row:
    if not facts.turbo:
        return Row("turbo", Status.FINE, "off" if facts.turbo is False else "none to switch")
    intel = setup.SYSTEM / "intel_pstate/no_turbo"
    mend = (
        _write("1", str(intel)) if intel.exists() else _write("0", f"{setup.SYSTEM}/cpufreq/boost")
    )
    return Row("turbo", Status.DEGRADED, "on", "latencies vary with the temperature", mend)


def _smt(facts: Setup) -> Row:
    if not facts.smt:
        return Row("smt", Status.FINE, "off")
    mend = _write("off", str(SMT_CONTROL))
    return Row("smt", Status.DEGRADED, "on", "what a sibling thread does is in latencies", mend)


def _load() -> Row:
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    found = f"{load:.1f} runnable threads in the last minute, {cpus} CPUs"
    if load <= BUSY * cpus:
        return Row("load", Status.FINE, found)
    means = "what else runs is in latencies; wait for it, or end what is yours"
    return Row("load", Status.DEGRADED, found, means, "ps -e --sort=-pcpu -o pcpu,pid,comm | head")


def _leftovers(settings: Settings) -> Row:
    try:
        found = leftovers.find(settings.runtime).lines() if settings.runtime.exists() else []
    except (HostError, PermissionError):
        unseen = f"{settings.runtime} is not this user's to look into"
        return Row("leftovers", Status.DEGRADED, unseen, "some may be in latencies")
    if not found:
        return Row("leftovers", Status.FINE, "none")
    mend = f"{shlex.quote(str(machine.BIN / 'kickbench'))} clean"
    means = "killed runs left it, and it may be in latencies"
    return Row("leftovers", Status.DEGRADED, ", ".join(found), means, _as_root(mend))
