# SPDX-License-Identifier: BSD-3-Clause
import platform
import shlex

import pytest

from bench_lib import architecture
from bench_lib.errors import UnknownArchitecture
from bench_lib.host import needs, setup
from bench_lib.host.need import Need
from bench_lib.settings import Settings
from bench_lib.trial import preflight


def _machine(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: name)


def test_a_machine_without_a_row_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, "riscv64")
    with pytest.raises(
        UnknownArchitecture, match=r"does not know the CPU architecture riscv64; .*x86"
    ):
        preflight.check(Settings.from_environment({"HOME": "/"}))


def test_a_machine_without_guest_images_is_refused_before_anything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _machine(monkeypatch, "aarch64")
    with pytest.raises(UnknownArchitecture, match=r"no guest images for aarch64; .* on x86_64"):
        preflight.check(Settings.from_environment({"HOME": "/"}))


@pytest.mark.parametrize("name", ["riscv64", "aarch64"])
def test_what_does_not_start_a_guest_works_on_every_machine(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Reports and gates read records, which may come from any machine."""
    _machine(monkeypatch, name)
    settings = Settings.from_environment({"HOME": "/"})
    assert settings.qemu == f"qemu-system-{name}"
    found = setup.of_this_machine()
    assert (found.kvm, found.nested, found.huge_pages) == (None, None, None)


@pytest.mark.parametrize("name", ["riscv64", "aarch64"])
@pytest.mark.parametrize("need", Need)
def test_the_doctor_has_an_answer_for_every_need_on_every_machine(
    monkeypatch: pytest.MonkeyPatch, name: str, need: Need
) -> None:
    _machine(monkeypatch, name)
    assert needs.consequence(need)
    fix = needs.fix(need, Settings.from_environment({"HOME": "/"}))
    assert fix is None or shlex.split(fix)


@pytest.mark.parametrize(
    ("name", "system_call"), [("x86_64", 323), ("aarch64", 282)], ids=["x86_64", "aarch64"]
)
def test_a_machine_is_found_by_the_name_that_uname_gives(
    monkeypatch: pytest.MonkeyPatch, name: str, system_call: int
) -> None:
    _machine(monkeypatch, name)
    assert architecture.here().userfaultfd == system_call
