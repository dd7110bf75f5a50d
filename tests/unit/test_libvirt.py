# SPDX-License-Identifier: BSD-3-Clause
"""What libvirt is told of a guest, and which requests its guests can be asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from bench_lib.doctor import libvirt
from bench_lib.doctor.finding import Status
from bench_lib.errors import BadShape, LibvirtMissing, NotOffered, NotRecoverable
from bench_lib.guest import image
from bench_lib.guest.qemu import GuestConfig
from bench_lib.guest.workloads.firmware import Firmware
from bench_lib.host import needs
from bench_lib.libvirt import daemon, domain
from bench_lib.record import Backing, ManagerName, RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial.case import Case
from bench_lib.trial.requests.description import LIBVIRT_DEADLINE_S, REQUESTS, offered_by

SETTINGS = Settings.from_environment({"HOME": "/"})
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def config(shape: Shape) -> GuestConfig:
    workload = Firmware(image.load(SETTINGS.images, "gup"))
    return GuestConfig("guest", "/usr/bin/qemu", workload, shape)


def parsed(shape: Shape, *, gdbstub: bool = False) -> ElementTree.Element:
    return ElementTree.fromstring(domain.xml(config(shape), "name", gdbstub=gdbstub))


def arguments(found: ElementTree.Element) -> list[str]:
    return [each.get("value", "") for each in found.iter(f"{QEMU}arg")]


def test_libvirt_is_told_of_the_same_guest_as_qemu() -> None:
    found = parsed(Shape(vcpus=3, memory_mib=32))
    assert found.findtext("name") == "name"
    assert found.findtext("vcpu") == "3"
    assert found.findtext("memory") == "32"
    assert found.findtext("os/loader", "").endswith("gup.bin")
    assert found.findtext("cpu/model") == "qemu64"
    assert [each.get("name") for each in found.iterfind("cpu/feature")] == ["pni"]
    assert found.find("memoryBacking") is None
    passed = arguments(found)
    loaded = [each for each in passed if each.startswith("loader,")]
    assert len(loaded) == 3
    assert any(each.endswith("data=3,data-len=4") for each in loaded)
    assert "-bios" not in passed


@pytest.mark.parametrize("backing", [Backing.MEMFD, Backing.HUGETLB])
def test_the_memory_of_a_guest_is_what_the_shape_says(backing: Backing) -> None:
    memory = parsed(Shape(backing=backing)).find("memoryBacking")
    assert memory is not None
    source = memory.find("source")
    assert source is not None
    assert source.get("type") == "memfd"
    assert (memory.find("hugepages/page") is not None) == (backing is Backing.HUGETLB)


def test_libvirt_passes_an_unusual_cpu_to_qemu() -> None:
    passed = arguments(parsed(Shape(cpu="host,kvm-steal-time=off")))
    assert passed[passed.index("-cpu") + 1] == "host,kvm-steal-time=off"
    assert "-cpu" not in arguments(parsed(Shape()))


def test_a_guest_has_a_gdbstub_only_for_a_request_to_it() -> None:
    assert "-gdb" in arguments(parsed(Shape(), gdbstub=True))
    assert "-gdb" not in arguments(parsed(Shape()))


def test_each_manager_offers_its_own_requests() -> None:
    qemu, libvirt = (set(offered_by(each)) for each in ManagerName)
    assert qemu - libvirt == {
        RequestName.CTRL_C,
        RequestName.CGROUP_FREEZE,
        RequestName.CORE_DUMP,
        RequestName.PLUG_MEMORY,
    }
    assert libvirt - qemu == {each for each in RequestName if each.startswith("virt-")}
    with pytest.raises(
        NotOffered, match=r"ctrl-c cannot .* libvirt runs; the requests are stop, gdb"
    ):
        Case(ScenarioName.IDLE, RequestName.CTRL_C, manager=ManagerName.LIBVIRT)
    with pytest.raises(NotOffered, match="--manager"):
        Case(ScenarioName.IDLE, RequestName.VIRT_SUSPEND)


def test_libvirt_cannot_be_told_to_use_preempt() -> None:
    with pytest.raises(BadShape, match="postcopy-preempt"):
        Case(ScenarioName.IDLE, RequestName.STOP, Shape(preempt=True), manager=ManagerName.LIBVIRT)


def test_requests_to_libvirt_wait_longer_unless_told_otherwise() -> None:
    stop, suspend = (
        REQUESTS[each].deadline_s for each in (RequestName.STOP, RequestName.VIRT_SUSPEND)
    )
    assert SETTINGS.deadline_of(stop) == SETTINGS.deadline_s
    assert SETTINGS.deadline_of(suspend) == LIBVIRT_DEADLINE_S
    told = Settings.from_environment({"HOME": "/", "KICKBENCH_DEADLINE": "7"})
    assert told.deadline_of(suspend) == 7


@pytest.mark.parametrize(
    "version, status",
    [
        ("libvirtd (libvirt) 9.0.0", Status.FINE),
        ("libvirtd (libvirt) 11.2.0", Status.DEGRADED),
        ("libvirtd (libvirt) 11.3.0", Status.DEGRADED),
        ("libvirtd (libvirt) 11.4.0", Status.FINE),
    ],
)
def test_the_doctor_warns_of_versions_that_crash(
    monkeypatch: pytest.MonkeyPatch, version: str, status: Status
) -> None:
    monkeypatch.setattr(needs, "check", lambda need, settings: version)
    found = libvirt.finding(SETTINGS)
    assert found.status is status
    assert ("11.4" in found.means) == (status is Status.DEGRADED)


def test_a_host_without_libvirt_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "LIBVIRTD", "no-such-libvirtd")
    with pytest.raises(LibvirtMissing, match="set-up --libvirt"):
        needs._libvirt(SETTINGS)
    assert libvirt.finding(SETTINGS).status is Status.FINE


def test_a_second_request_needs_a_guest_that_is_still_there() -> None:
    made = Case(ScenarioName.IDLE, RequestName.STOP, then=RequestName.SIGKILL)
    assert made.name == "idle/stop/then sigkill"
    with pytest.raises(NotOffered, match="sigterm ends the guest"):
        Case(ScenarioName.IDLE, RequestName.SIGTERM, then=RequestName.SIGKILL)
    with pytest.raises(NotOffered, match="--manager"):
        Case(ScenarioName.IDLE, RequestName.STOP, then=RequestName.VIRT_DESTROY)
    with pytest.raises(NotOffered, match="stop stops the guest, and QEMU's gdbstub"):
        Case(ScenarioName.IDLE, RequestName.STOP, then=RequestName.GDBSTUB_BREAK)
    with pytest.raises(NotRecoverable):
        Case(ScenarioName.PAUSED, RequestName.STOP, recover=True, then=RequestName.SIGKILL)


LOG = """\
2026-11-26 05:47:47.911+0000: 18257: error : virNetDevSendEthtoolIoctl:3034 : No such device
2026-11-26 05:47:48.090+0000: 18239: warning : virQEMUCapsLogProbeFailure:5779 : Failed to probe it
"""


@pytest.mark.parametrize(
    "levels, words",
    [
        ((), ": No such device"),
        (("error", "warning"), ": No such device; Failed to probe it"),
    ],
)
def test_what_libvirtd_logged_last_is_shown(
    tmp_path: Path, levels: tuple[str, ...], words: str
) -> None:
    log = tmp_path / "log"
    log.write_text(LOG)
    child: Any = SimpleNamespace(pid=1)
    made = daemon.Daemon("name", child, daemon._Reports(-1, apart=True), log)
    assert made.last_words(*levels) == words
