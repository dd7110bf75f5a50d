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
