"""What kernels are called, over the kernels that there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench_lib.asv_bridge.repo import KernelRepo
from bench_lib.cli import kernels as command
from bench_lib.errors import FetchFailed, UnknownKernel
from bench_lib.host import identity
from bench_lib.kernel import debian
from bench_lib.kernel.ledger import Build, Ledger, describe
from bench_lib.kernel.names import meant, unknown
from bench_lib.kernel.store import Bootable, Store
from bench_lib.record import Kernel
from bench_lib.settings import Settings

OLD, NEW, OTHER = (
    describe(Kernel(release, f"#1 SMP Debian {number}-1 (2026-01-0{number})"))
    for number, release in enumerate(
        ["6.1.0-9-amd64", "6.1.0-10-amd64", "6.12.94+deb12-amd64"], start=1
    )
)
REBUILT = describe(Kernel(NEW.release, "#1 SMP Debian 9-1 (2026-01-09)"))
BOOTED = describe(identity.booted())
ALL = [OLD, NEW, REBUILT, OTHER, BOOTED]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (OLD.release, [OLD]),
        (f"v{OTHER.release}", [OTHER]),
        (f"linux-image-{OLD.release}", [OLD]),
        ("debian/6.12", [OTHER]),
        ("debian/6.1", [NEW, REBUILT]),
        (NEW.release, [NEW, REBUILT]),
        (f"v{NEW.release}+{REBUILT.id[:8]}", [REBUILT]),
        (REBUILT.id[:10], [REBUILT]),
        (OLD.id, [OLD]),
        (OLD.id[:3], []),
        ("booted", [BOOTED]),
        ("debian/5.10", []),
        ("6.1.0", []),
        ("", []),
    ],
)
def test_a_name_means_the_same_everywhere(name: str, found: Sequence[Build]) -> None:
    assert meant(name, ALL) == found


def test_a_name_that_is_nearly_right_is_told_the_nearest() -> None:
    text = str(unknown("v6.1.0-9-amd46", ALL, "at apt"))
    assert text.startswith("There is no kernel 'v6.1.0-9-amd46' at apt. The nearest known: 6.1.0-9")
    text = str(unknown("debian/5.10", ALL, "at apt"))
    assert "no kernel of debian/5.10 at apt; there is debian/6.1, debian/6.12" in text


def test_of_two_builds_of_a_release_asv_means_the_one_with_the_tag(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "kernels.json")
    for build in (OLD, NEW, REBUILT):
        ledger.add(build)
    repo = KernelRepo(str(ledger.path), "")
    assert repo.build(f"v{NEW.release}") == repo.build(NEW.release) == NEW
    assert repo.build(ledger.tag(REBUILT)) == repo.build(REBUILT.id[:8]) == REBUILT
    assert repo.build("debian/6.1") == REBUILT


Have = Callable[[Sequence[Build], Sequence[str] | None], Settings]


@pytest.fixture
def have(history: Path, monkeypatch: pytest.MonkeyPatch) -> Have:
    """A cache of builds, and an apt with releases; None for none that can be asked."""

    def fetch(store: Store, release: str, _: object) -> Bootable:
        return Bootable(describe(Kernel(release, "#1 fetched")), "apt", store.folder)

    def prepare(builds: Sequence[Build], offered: Sequence[str] | None) -> Settings:
        def releases() -> list[str]:
            if offered is None:
                raise FetchFailed("apt does not say.")
            return list(offered)

        there = [Bootable(build, "here", Path("/nowhere")) for build in builds]
        monkeypatch.setattr(Store, "all", lambda _: there)
        monkeypatch.setattr(debian, "releases", releases)
        monkeypatch.setattr(debian, "fetch", fetch)
        return Settings.from_environment()

    return prepare


def test_what_is_fetched_is_booted_without_asking_apt(have: Have) -> None:
    settings = have([OLD, NEW], None)
    assert command.bootable(settings, f"v{OLD.release}").build == OLD
    assert command.bootable(settings, OLD.id[:8]).build == OLD
    # Apt cannot be asked, so the newest here is the newest known.
    assert command.bootable(settings, "debian/6.1").build == NEW


def test_a_stream_is_the_newest_that_apt_has(have: Have) -> None:
    settings = have([OLD], [OLD.release, NEW.release])
    found = command.bootable(settings, "debian/6.1")
    assert (found.build.release, found.source) == (NEW.release, "apt")
    assert command.bootable(have([OLD], []), "debian/6.1").build == OLD


def test_a_kernel_that_nobody_has(have: Have) -> None:
    with pytest.raises(UnknownKernel, match="in the cache or at apt"):
        command.bootable(have([OLD], [NEW.release]), "6.1.0-99-amd64")
    with pytest.raises(FetchFailed, match="apt does not say"):
        command.bootable(have([OLD], None), "debian/6.12")
