# SPDX-License-Identifier: BSD-3-Clause
"""Preflight refuses and the doctor shows the same lacks of a host, in the same words."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from bench_lib import doctor, ptrace, threads
from bench_lib.doctor import Status
from bench_lib.errors import (
    CoreDumpsElsewhere,
    EvidenceHidden,
    HostError,
    LibvirtMissing,
    OnlyInLabs,
    PtraceForbidden,
)
from bench_lib.host import device, freezer, fuse, needs, userfaultfd
from bench_lib.host.need import Need
from bench_lib.record import ManagerName, RequestName, ScenarioName
from bench_lib.settings import Settings
from bench_lib.trial import preflight
from bench_lib.trial.case import Case

Break = Callable[[pytest.MonkeyPatch], None]


def _hide(pid: int, tid: int) -> None:
    raise EvidenceHidden("This kernel has no /proc/1/stack.")


def _forbid(request: int, tid: int, data: int = 0) -> None:
    raise PermissionError(1, "Operation not permitted")


def _read_only(version: int) -> int:
    """Open a folder with a file that cannot be opened for writing, not even by root."""
    return os.open("/proc/self/fdinfo", os.O_RDONLY | os.O_DIRECTORY)


def _forbid_siblings(*, sibling: bool = False) -> None:
    if sibling:
        raise PtraceForbidden("No process may be traced by a sibling of its.")


BREAK: dict[Need, Break] = {
    Need.ARCHITECTURE: lambda patch: patch.setattr(platform, "machine", lambda: "riscv64"),
    Need.KVM: lambda patch: patch.setattr(device, "KVM_API_VERSION", 99),
    Need.ROOT: lambda patch: patch.setattr(os, "geteuid", lambda: 1000),
    Need.QEMU: lambda patch: patch.setenv("KICKBENCH_QEMU", "no-such-qemu"),
    Need.NETWORK: lambda patch: patch.setattr(needs, "TOOLS", ("ip", "no-such-tc")),
    # A flag that unshare(2) does not have.
    Need.NAMESPACES: lambda patch: patch.setattr(needs, "CLONE_NEWNET", 1),
    Need.USERFAULTFD: lambda patch: patch.setattr(userfaultfd, "UFFD_API", 0),
    Need.STACKS: lambda patch: patch.setattr(threads, "observe", _hide),
    Need.GDB: lambda patch: patch.setattr(needs, "GDB", "no-such-gdb"),
    Need.PTRACE: lambda patch: patch.setattr(ptrace, "ptrace", _forbid),
    Need.PTRACE_SIBLING: lambda patch: patch.setattr(ptrace, "check", _forbid_siblings),
    Need.PS: lambda patch: patch.setattr(needs, "PS", "no-such-ps"),
    Need.FREEZER: lambda patch: patch.setattr(freezer, "_open_mounted", _read_only),
    Need.CORE_DUMPS: lambda patch: patch.setattr(needs, "CORE_PATTERN", Path("/dev/null")),
    Need.FUSE: lambda patch: patch.setattr(fuse, "DEVICE", Path("/dev/no-such-fuse")),
}
"""What makes this host lack a need. libvirt is optional, and has a test of its own."""

IN_LABS = {
    Need.SWAP: ScenarioName.SWAP_MEMFD,
    Need.NFS: ScenarioName.NFS_HARD,
    Need.MEMORY_CONTROL: ScenarioName.MEMORY_HIGH,
}
"""The needs that only labs meet, and a scenario with each."""

ROWS = {Need.NAMESPACES: "outages", Need.PTRACE_SIBLING: "ptrace"}
"""The doctor's rows that are not named after their need."""

REQUESTS = {
    Need.GDB: RequestName.GDB_ATTACH,
    Need.PTRACE: RequestName.PTRACE_INTERRUPT,
    Need.PTRACE_SIBLING: RequestName.GDB_ATTACH,
    Need.PS: RequestName.PS,
    Need.FREEZER: RequestName.CGROUP_FREEZE,
    Need.CORE_DUMPS: RequestName.CORE_DUMP,
}
"""A request with this need, if a migration alone does not have it."""

SCENARIOS = {Need.FUSE: ScenarioName.FUSE_HOLD}
"""A scenario with this need, if a migration does not have it."""


@pytest.mark.usefixtures("history", "runtime")
@pytest.mark.parametrize("need", BREAK)
def test_the_doctor_shows_the_sentence_with_which_preflight_refuses(
    monkeypatch: pytest.MonkeyPatch, need: Need
) -> None:
    BREAK[need](monkeypatch)
    settings = Settings.from_environment()
    scenario = SCENARIOS.get(need, ScenarioName.BLACKHOLE)
    case = Case(scenario, REQUESTS.get(need, RequestName.STOP))
    with pytest.raises(HostError) as refused:
        preflight.check(settings, [case])
    rows = {row.name: row for row in doctor.examine(settings)}
    row = rows[ROWS.get(need, need)]
    assert row.status is not Status.FINE
    assert row.found == str(refused.value)
    assert row.means
    if need not in REQUESTS and need not in SCENARIOS:
        assert not doctor.native_runs(list(rows.values()))


def test_every_need_can_be_broken() -> None:
    assert [*BREAK, *IN_LABS, Need.LIBVIRT] == list(Need)


@pytest.mark.parametrize("scenario", IN_LABS.values())
def test_what_would_change_this_host_is_refused_outside_labs(
    scenario: ScenarioName,
) -> None:
    settings = Settings.from_environment()
    with pytest.raises(OnlyInLabs, match=r"only in labs, because .*; use --kernel\.$"):
        preflight.check(settings, [Case(scenario, RequestName.STOP)])


@pytest.mark.parametrize("need", [Need.SWAP, Need.NFS])
def test_a_lab_whose_kernel_lacks_a_module_is_refused(
    monkeypatch: pytest.MonkeyPatch, need: Need
) -> None:
    for modules in ("SWAP_MODULES", "NFS_MODULES"):
        monkeypatch.setattr(needs, modules, ("no_such_module",))
    settings = dataclasses.replace(Settings.from_environment(), lab=("tcg", "host"))
    with pytest.raises(OnlyInLabs, match="no module no_such_module"):
        needs.check(need, settings)


@pytest.mark.usefixtures("history", "runtime")
def test_a_host_without_libvirt_is_fine_and_the_doctor_shows_what_preflight_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(needs, "LIBVIRTD", "no-such-libvirtd")
    settings = Settings.from_environment()
    case = Case(ScenarioName.BLACKHOLE, RequestName.STOP, manager=ManagerName.LIBVIRT)
    with pytest.raises(LibvirtMissing) as refused:
        preflight.check(settings, [case])
    row = {row.name: row for row in doctor.examine(settings)}[Need.LIBVIRT]
    assert row.status is Status.FINE
    assert row.found.startswith(str(refused.value))


@pytest.mark.usefixtures("history", "runtime")
def test_if_only_children_may_be_traced_one_request_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ptrace_scope 1 of Yama, for a user without CAP_SYS_PTRACE."""
    monkeypatch.setattr(ptrace, "check", _forbid_siblings)
    settings = Settings.from_environment()
    preflight.check(settings, [Case(ScenarioName.IDLE, RequestName.PTRACE_INTERRUPT)])
    row = {row.name: row for row in doctor.examine(settings)}["ptrace"]
    assert "gdb-attach" in row.means
    assert "ptrace-interrupt" not in row.means


def test_a_gdb_that_does_not_start_is_refused_before_the_first_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Like a gdb whose libraries are missing: it is on PATH all the same."""
    broken = tmp_path / "gdb"
    broken.write_text("#!/bin/sh\necho 'gdb: error while loading shared libraries' >&2\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    cases = [Case(ScenarioName.IDLE, RequestName.GDB_ATTACH)]
    with pytest.raises(HostError, match=r"gdb does not start: .* error while loading"):
        preflight.check(Settings.from_environment(), cases)


@pytest.mark.parametrize(
    "pattern", ["|/usr/lib/systemd/systemd-coredump %P", "/var/crash/core.%p", "@/run/a", "a/b", ""]
)
def test_a_core_that_would_be_left_behind_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pattern: str
) -> None:
    monkeypatch.setattr(needs, "CORE_PATTERN", tmp_path / "core_pattern")
    needs.CORE_PATTERN.write_text(f"{pattern}\n")
    settings = Settings.from_environment()
    with pytest.raises(CoreDumpsElsewhere, match=r"sysctl -w kernel\.core_pattern=core"):
        needs.check(Need.CORE_DUMPS, settings)
    needs.CORE_PATTERN.write_text("core.%p\n")
    assert "core.%p" in needs.check(Need.CORE_DUMPS, settings)
