# SPDX-License-Identifier: BSD-3-Clause
from pathlib import Path

import pytest

from bench_lib.host import setup


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of /sys/devices/system/cpu."""
    monkeypatch.setattr(setup, "SYSTEM", tmp_path)
    monkeypatch.setattr(setup, "MODULES", tmp_path / "module")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.mark.usefixtures("system")
def test_facts_that_the_kernel_does_not_show_are_none() -> None:
    found = setup.of_this_machine()
    assert (found.kvm, found.nested, found.governor, found.turbo, found.smt) == (None,) * 5
    assert found.mitigations == {}


def test_each_governor_is_listed_once(system: Path) -> None:
    for cpu, governor in enumerate(["powersave", "performance", "powersave"]):
        write(system / f"cpu{cpu}/cpufreq/scaling_governor", governor)
    assert setup.of_this_machine().governor == "performance,powersave"


@pytest.mark.parametrize(
    ("name", "text", "on"),
    [
        ("intel_pstate/no_turbo", "0", True),
        ("intel_pstate/no_turbo", "1", False),
        ("cpufreq/boost", "1", True),
        ("cpufreq/boost", "0", False),
    ],
)
def test_turbo_is_read_from_the_file_of_the_driver(
    system: Path, name: str, text: str, on: bool
) -> None:
    write(system / name, text)
    assert setup.turbo() is on


@pytest.mark.parametrize(("text", "on"), [("Y", True), ("1", True), ("N", False), ("0", False)])
def test_nesting_is_read_from_the_parameter_of_the_module(
    system: Path, text: str, on: bool
) -> None:
    write(system / "module/kvm_amd/parameters/nested", text)
    assert setup.nested() is on
    assert setup.kvm_module() == "kvm_amd"


def test_flaws_that_a_processor_does_not_have_are_left_out(system: Path) -> None:
    write(system / "vulnerabilities/mds", "Not affected")
    write(system / "vulnerabilities/spectre_v2", "Mitigation: Retpolines; STIBP: disabled")
    write(system / "vulnerabilities/retbleed", "Vulnerable")
    assert setup.of_this_machine().mitigations == {
        "retbleed": "Vulnerable",
        "spectre_v2": "Mitigation: Retpolines",
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Filename\tType\tSize\tUsed\tPriority\n", ()),
        (
            "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
            "/dev/dm-0                               partition\t131068\t\t0\t\t-2\n"
            "/a\\040file                             file\t\t131068\t\t0\t\t-3\n",
            ("/dev/dm-0 (partition)", "/a\\040file (file)"),
        ),
    ],
)
def test_every_place_that_the_kernel_swaps_to_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, found: tuple[str, ...]
) -> None:
    monkeypatch.setattr(setup, "SWAPS", tmp_path / "swaps")
    assert setup.of_this_machine().swap is None
    write(tmp_path / "swaps", text)
    assert setup.of_this_machine().swap == found


def test_timeouts_of_fuse_are_those_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "FUSE", tmp_path)
    old = setup.of_this_machine()
    assert (old.fuse_request_timeout, old.fuse_max_request_timeout) == (None, None)
    write(tmp_path / "default_request_timeout", "60")
    write(tmp_path / "max_request_timeout", "120")
    new = setup.of_this_machine()
    assert (new.fuse_request_timeout, new.fuse_max_request_timeout) == (60, 120)


def test_the_limit_of_dirty_memory_is_the_one_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "VM", tmp_path)
    assert setup.of_this_machine().dirty_limit is None
    write(tmp_path / "dirty_ratio", "20")
    write(tmp_path / "dirty_bytes", "0")
    assert setup.of_this_machine().dirty_limit == "20%"
    write(tmp_path / "dirty_ratio", "0")
    write(tmp_path / "dirty_bytes", "67108864")
    assert setup.of_this_machine().dirty_limit == "67108864 bytes"
