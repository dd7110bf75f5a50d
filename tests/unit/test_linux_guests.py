# SPDX-License-Identifier: BSD-3-Clause
"""Which kernel Linux guests run, which state they start from, and what is said if there is none."""

from __future__ import annotations

import asyncio
import dataclasses
import fnmatch
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from bench_lib.cli import kernels
from bench_lib.doctor import Finding, Status
from bench_lib.doctor import linux as row
from bench_lib.errors import (
    GuestKernelMissing,
    GuestNotBooted,
    ImageError,
    KernelUnusable,
    UnknownKernel,
)
from bench_lib.guest import state
from bench_lib.guest.workloads import linux
from bench_lib.guest.workloads.description import shape_of
from bench_lib.host import identity, setup
from bench_lib.kernel import guest
from bench_lib.kernel.ledger import Build
from bench_lib.ownership import Run
from bench_lib.record import Backing, Kernel, RequestName, ScenarioName, Setup, Shape
from bench_lib.settings import Settings
from bench_lib.trial import linux_guests
from bench_lib.trial.case import Case

SHAPE = shape_of("linux", vcpus=2)
HERE = Kernel("6.1.0-1-amd64", "#1 one")


def _build(folder: Path, release: str, version: str = "#1 one", date: str = "2026-01-01") -> Build:
    """Write the description of a build, which is all of it that is read here."""
    build = Build(release, version, date, f"debian/{'.'.join(release.split('.')[:2])}")
    folder.mkdir(parents=True)
    manifest = {"build": msgspec.to_builtins(build), "source": "somewhere"}
    (folder / "build.json").write_text(json.dumps(manifest))
    return build


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings of a user with two kernels of the guests' stream, and others."""
    cache = tmp_path / "cache"
    for release in ("6.1.0-56-amd64", "6.12.9+deb13-amd64", "6.12.10+deb13-amd64", "6.13.1"):
        _build(cache / "kernels" / release, release)
    return Settings.from_environment({"HOME": str(tmp_path), "KICKBENCH_CACHE": str(cache)})


def _with(settings: Settings, name: str | Path) -> Settings:
    return dataclasses.replace(settings, guest_kernel=str(name))


def test_the_guests_kernel_is_the_newest_of_a_stream(settings: Settings) -> None:
    assert settings.guest_kernel == "debian/6.12"
    assert guest.find(settings).build.release == "6.12.10+deb13-amd64"


@pytest.mark.parametrize("name", ["6.12.9+deb13-amd64", "v6.12.9+deb13-amd64", "6.13.1"])
def test_the_guests_kernel_may_be_named(settings: Settings, name: str) -> None:
    assert guest.find(_with(settings, name)).build.release == name.removeprefix("v")


def test_the_guests_kernel_is_the_newest_build_of_a_release(settings: Settings) -> None:
    for number, date in enumerate(("2026-02-02", "2026-03-03", "2026-01-01")):
        folder = settings.cache / "kernels" / f"another-{number}"
        _build(folder, "6.12.10+deb13-amd64", f"#1 {date}", date)
    assert guest.find(settings).build.version == "#1 2026-03-03"


def test_the_guests_kernel_may_be_a_folder(settings: Settings, tmp_path: Path) -> None:
    _build(tmp_path / "mine", "6.19.0-mine")
    found = guest.find(_with(settings, tmp_path / "mine"))
    assert (found.build.release, found.folder) == ("6.19.0-mine", tmp_path / "mine")


def test_a_guests_kernel_that_is_not_in_the_cache_is_to_be_fetched(settings: Settings) -> None:
    with pytest.raises(GuestKernelMissing) as caught:
        guest.find(_with(settings, "debian/7.0"))
    assert str(caught.value) == (
        "Linux guests run the kernel debian/7.0, which is not in the cache; run `kickbench kernels "
        "fetch debian/7.0`, or set KICKBENCH_GUEST_KERNEL to another kernel."
    )
    assert caught.value.exit_status == 48


def test_a_folder_without_a_build_cannot_be_fetched(settings: Settings, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(GuestKernelMissing) as caught:
            guest.find(_with(settings, path))
        assert str(caught.value) == (
            f"KICKBENCH_GUEST_KERNEL is {path}, which is not the folder of a kernel build: it has "
            "no build.json; set it to such a folder in the cache, or to the name of a kernel."
        )


def test_the_folder_of_a_damaged_build_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "build.json").write_text("garbage")
    with pytest.raises(KernelUnusable, match="is damaged"):
        guest.find(_with(settings, tmp_path))


def _cases(image: str) -> list[Case]:
    return [Case(ScenarioName.IDLE, RequestName.STOP, shape_of(image))]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that were fetched."""
    names: list[str] = []

    def fetch(_: Settings, name: str) -> None:
        names.append(name)
        if name == "debian/0.1":
            raise UnknownKernel(f"There is no kernel of {name}.")

    monkeypatch.setattr(kernels, "bootable", fetch)
    return names


def test_the_guests_kernel_is_fetched_once_if_a_trial_needs_it(
    settings: Settings, fetched: list[str]
) -> None:
    kernels.fetch_guest(_with(settings, "debian/7.0"), _cases("gup"))
    kernels.fetch_guest(settings, _cases("linux"))
    assert not fetched
    kernels.fetch_guest(_with(settings, "debian/7.0"), [*_cases("gup"), *_cases("linux")])
    assert fetched == ["debian/7.0"]


def test_a_guests_kernel_that_cannot_be_fetched_is_an_error(
    settings: Settings, fetched: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UnknownKernel):
        kernels.fetch_guest(_with(settings, "debian/0.1"), _cases("linux"))
    with pytest.raises(GuestKernelMissing, match="not the folder of a kernel build"):
        kernels.fetch_guest(_with(settings, tmp_path), _cases("linux"))
    assert fetched == ["debian/0.1"]


Asked = Callable[..., tuple[str, dict[str, str]]]


@pytest.fixture
def asked(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Returns which state a run looks for: the name of its files, and what it has to be of."""
    found: list[tuple[str, dict[str, str]]] = []

    def load(path: Path, of: Mapping[str, str]) -> state.State:
        found.append((path.name, dict(of)))
        path.parent.mkdir(exist_ok=True)
        state.data(path).touch()
        return state.State(dict(of), 7, 0, 0)

    def ask(
        shape: Shape = SHAPE, settings: Settings = settings, qemu: str = "7.2.22"
    ) -> tuple[str, dict[str, str]]:
        run = Run("8123456789ab", tmp_path)
        made = asyncio.run(linux_guests.prepared(run, settings, qemu, {shape}, {shape}))
        assert made[shape].state == tmp_path / found[-1][0]
        assert made[shape].boot_ns == 7
        return found[-1]

    monkeypatch.setattr(state, "load", load)
    monkeypatch.setattr(identity, "booted", lambda: HERE)
    monkeypatch.setattr(setup, "of_this_machine", lambda: Setup(cpu="a CPU"))
    return ask


def test_a_guest_starts_from_the_state_of_an_equal_guest(asked: Asked) -> None:
    assert asked() == asked()
    name, of = asked()
    assert name.startswith("6.1.0-1-amd64-linux-memory-2x128-")
    assert set(of) == {
        "kernel", "host", "processor", "kvm", "qemu", "guest kernel", "program", "arguments", "cpu",
        "vcpus", "memory_mib", "backing",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "changed"),
    [
        (shape_of("linux", vcpus=3), {"vcpus"}),
        (shape_of("linux", vcpus=2, memory_mib=130), {"memory_mib", "arguments"}),
        (shape_of("linux", vcpus=2, cpu="host,kvmclock=off"), {"cpu"}),
        (shape_of("linux", vcpus=2, work="idle"), {"arguments"}),
        (shape_of("linux", vcpus=2, backing=Backing.MEMFD), {"backing"}),
    ],
    ids=str,
)
def test_a_guest_of_another_shape_has_another_state(
    asked: Asked, shape: Shape, changed: set[str]
) -> None:
    _another(asked(), asked(shape), changed)


def _another(
    one: tuple[str, dict[str, str]], other: tuple[str, dict[str, str]], changed: set[str]
) -> None:
    assert one[0] != other[0]
    assert {key for key in one[1] if one[1][key] != other[1][key]} == changed


def test_another_qemu_has_another_state(asked: Asked) -> None:
    _another(asked(), asked(qemu="7.2.23"), {"qemu"})


def test_another_kernel_under_test_has_another_state(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = asked()
    monkeypatch.setattr(identity, "booted", lambda: dataclasses.replace(HERE, version="#2 two"))
    _another(one, asked(), {"kernel"})


def test_another_processor_has_another_state(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    one = asked()
    monkeypatch.setattr(setup, "of_this_machine", lambda: Setup(cpu="another CPU"))
    _another(one, asked(), {"processor"})


def test_a_lab_has_another_state_than_the_host(asked: Asked, settings: Settings) -> None:
    inside = dataclasses.replace(settings, lab=("tcg", "somewhere"))
    _another(asked(), asked(settings=inside), {"host"})
    outside = dataclasses.replace(settings, lab=("tcg", "elsewhere"))
    assert asked(settings=inside) == asked(settings=outside)


def test_another_kernel_of_the_guest_has_another_state(asked: Asked, settings: Settings) -> None:
    other = _with(settings, "6.12.9+deb13-amd64")
    _another(asked(), asked(settings=other), {"guest kernel", "arguments"})


def test_another_program_or_command_line_has_another_state(
    asked: Asked, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = asked()
    images = tmp_path / "images"
    (images / "linux").mkdir(parents=True)
    (images / "linux" / "init").write_bytes(b"another")
    sha256 = hashlib.sha256(b"another").hexdigest()
    manifest = {"file": "init", "source": "", "sha256": sha256, "compiler": ""}
    (images / "linux" / "manifest.json").write_text(json.dumps(manifest))
    _another(one, asked(settings=dataclasses.replace(settings, images=images)), {"program"})
    monkeypatch.setattr(linux, "PARAMETERS", ("quiet",))
    _another(one, asked(), {"arguments"})


def test_a_lab_gets_the_states_of_its_kernel_and_shapes(asked: Asked) -> None:
    name, _ = asked()
    for shape, found in ((SHAPE, True), (shape_of("linux"), False)):
        pattern = linux_guests.pattern(HERE.release, shape)
        assert fnmatch.fnmatch(f"guests/{name}.state", pattern) is found
    assert not fnmatch.fnmatch(f"guests/{name}.state", linux_guests.pattern("6.1.0-1", SHAPE))


def test_a_state_that_cannot_be_copied_is_an_error_with_advice(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(GuestNotBooted) as caught:
        asked()
    assert str(caught.value) == (
        f"The state of the Linux guest cannot be copied to {tmp_path} (No space left on device); "
        "free some space there, or set KICKBENCH_RUNTIME to another folder."
    )
    assert caught.value.exit_status == 37


@pytest.mark.parametrize(
    ("inside", "restored", "times"), [(False, False, 1), (False, True, 0), (True, False, 0)]
)
def test_a_host_is_tried_once_before_trials_that_boot_their_guests(
    asked: Asked,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inside: bool,
    restored: bool,
    times: int,
) -> None:
    """Each of them would be lost on a host that cannot run Linux. A lab can."""
    tried: list[Shape] = []

    async def boot(_: object, workload: linux.Linux, shape: Shape, *__: object) -> tuple[None, int]:
        tried.append(shape)
        return None, 7

    monkeypatch.setattr(linux_guests.Maker, "boot", boot)
    if inside:
        settings = dataclasses.replace(settings, lab=("tcg", "somewhere"))
    shapes = {SHAPE, shape_of("linux")}
    run = Run("8123456789ab", tmp_path)
    kept = {SHAPE} if restored else set()
    made = asyncio.run(linux_guests.prepared(run, settings, "7.2.22", shapes, kept))
    assert len(tried) == times
    assert {shape for shape in made if made[shape].state is not None} == kept


PANICKED = """
[   17.400000] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
[   17.500000] Call Trace:
[   17.600000]  ret_from_fork_asm+0x1a/0x30
[   17.700000] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs ]---
"""
EXITED = """kickbench: there is no serial line for marks
[    7.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100
"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "It printed nothing on its console."),
        ("\r\n", "It printed nothing on its console."),
        ("one\n[    1.25] two\r\n three\nfour", "Its console printed: two; three; four."),
        (
            PANICKED,
            "Its console printed: Kernel panic - not syncing: VFS: Unable to mount root fs on "
            "unknown-block(0,0).",
        ),
        (
            EXITED,
            "Its console printed: kickbench: there is no serial line for marks; Kernel panic - not "
            "syncing: Attempted to kill init! exitcode=0x00000100.",
        ),
    ],
    ids=["nothing", "empty lines", "lines", "panic", "program"],
)
def test_an_error_has_what_explains_it_on_the_guests_console(text: str, sentence: str) -> None:
    assert linux_guests.console(text) == sentence


def _row(settings: Settings, outcome: float | Exception, patch: pytest.MonkeyPatch) -> Finding:
    async def try_boot(*_: object) -> float:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    patch.setattr(linux_guests, "try_boot", try_boot)
    return row.finding(settings)


def test_the_doctor_finds_that_linux_boots(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _row(settings, 1.44, monkeypatch)
    assert (found.status, found.found) == (Status.FINE, "6.12.10+deb13-amd64 boots in 1.4 s")


def test_the_doctor_finds_that_only_a_lab_can_run_linux(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _row(settings, GuestNotBooted("It did not boot."), monkeypatch)
    assert (found.status, found.found) == (Status.DEGRADED, "It did not boot.")
    assert found.means == "trials with --image linux need a lab: use --kernel"


def test_the_doctor_finds_that_neither_the_host_nor_a_lab_can_run_linux(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _row(settings, ImageError("The program is not the one in the manifest."), monkeypatch)
    assert found.status is Status.DEGRADED
    assert found.means == "trials with --image linux cannot be made"


def test_the_doctor_knows_how_to_fetch_a_kernel_but_not_how_to_fetch_a_folder(
    settings: Settings, tmp_path: Path
) -> None:
    found = row.finding(_with(settings, "debian/7.0"))
    assert found.status is Status.DEGRADED
    assert found.fix is not None
    assert found.fix.endswith("/kickbench kernels fetch debian/7.0")
    assert found.means == "trials with --image linux have to fetch it first"
    found = row.finding(_with(settings, tmp_path))
    assert (found.status, found.fix) == (Status.DEGRADED, None)
    assert found.means == "trials with --image linux cannot be made"
