# SPDX-License-Identifier: BSD-3-Clause
"""Names of kernels, and the kernels that they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench_lib.asv_bridge.repo import KernelRepo
from bench_lib.cli import kernels as command
from bench_lib.errors import FetchFailed, UnknownKernel
from bench_lib.host import identity
from bench_lib.kernel import debian
from bench_lib.kernel.ledger import Build, Ledger, describe
from bench_lib.kernel.names import meant, unknown
from bench_lib.kernel.packages import PackagedKernel
from bench_lib.kernel.store import Bootable, Store
from bench_lib.kernel.suites import Suite, Suites
from bench_lib.record import Kernel
from bench_lib.settings import Settings

OLD, NEW, OTHER, RT = (
    describe(Kernel(release, f"#1 SMP Debian {number}-1 (2026-01-0{number})"))
    for number, release in enumerate(
        [
            "6.1.0-9-amd64",
            "6.1.0-10-amd64",
            "6.12.94+deb12-amd64",
            "6.12.95+deb13-rt-amd64",
        ],
        start=1,
    )
)
REBUILT = describe(Kernel(NEW.release, "#1 SMP Debian 9-1 (2026-01-09)"))
BOOTED = describe(identity.booted())
ALL = [OLD, NEW, REBUILT, OTHER, RT, BOOTED]
SUITES = {"debian/bookworm": OLD.release, "debian/trixie-rt": RT.release, "debian/sid": "7.2.13"}


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
        ("debian/6.12-rt", [RT]),
        ("debian/6.1-rt", []),
        ("debian/newest", [OTHER]),
        ("debian/newest-rt", [RT]),
        ("debian/bookworm", [OLD]),
        ("debian/trixie-rt", [RT]),
        ("debian/trixie", []),
        ("debian/sid", []),
        ("debian/5.10", []),
        ("6.1.0", []),
        ("", []),
    ],
)
def test_a_name_means_the_same_everywhere(name: str, found: Sequence[Build]) -> None:
    assert meant(name, ALL, SUITES) == found


def test_an_unknown_name_is_refused_with_the_nearest_ones() -> None:
    text = str(unknown("v6.1.0-9-amd46", ALL, "at apt"))
    assert text.startswith("There is no kernel 'v6.1.0-9-amd46' at apt. Similar names: 6.1.0-9")
    assert " Similar names: debian/6.1, 6.1.0-" in str(unknown("6.1", ALL, "at apt"))
    text = str(unknown("debian/5.10", ALL, "at apt"))
    streams = "debian/6.1, debian/6.12, debian/6.12-rt"
    assert f"no kernel of debian/5.10 at apt; there are kernels of {streams}" in text


def test_the_first_digits_of_several_ids_are_ambiguous() -> None:
    one, other = SimpleNamespace(**vars(OLD), id="0123" * 10), SimpleNamespace(id="01239" * 8)
    both = [one, SimpleNamespace(**{**vars(NEW), **vars(other)})]
    assert meant("0123", both) == []
    text = str(unknown("0123", both, "here"))
    assert text == (
        f"The ids of several builds start with 0123: 012301230123 ({OLD.release}), "
        f"012390123901 ({NEW.release}); give more digits."
    )


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
    """Makes a cache of builds, and suites with releases; None is a mirror that does not answer."""

    def fetch(store: Store, suites: Suites, offer: debian.Offer, _: object) -> Bootable:
        if suites.problem:
            raise FetchFailed("There is no network.")
        return Bootable(describe(Kernel(offer.release, "#1 fetched")), offer.suite, store.folder)

    def prepare(builds: Sequence[Build], offered: Sequence[str] | None) -> Settings:
        def refresh(_: Suites, on_bytes: object) -> None:
            if offered is None:
                raise FetchFailed("There is no mirror.")

        there = [Bootable(build, "here", Path("/nowhere")) for build in builds]
        kernels = tuple(PackagedKernel(each, "1", ()) for each in offered or ())
        suites = [Suite("trixie", ("trixie",), kernels=kernels)] if kernels else []
        monkeypatch.setenv("KICKBENCH_CACHE", str(history / "cache"))
        monkeypatch.setattr(Store, "all", lambda _: there)
        monkeypatch.setattr(Suites, "all", suites)
        monkeypatch.setattr(Suites, "refresh", refresh)
        monkeypatch.setattr(debian, "fetch", fetch)
        return Settings.from_environment()

    return prepare


def test_a_fetched_kernel_is_booted_without_asking_a_mirror(have: Have) -> None:
    settings = have([OLD, NEW], None)
    assert command.bootable(settings, f"v{OLD.release}").build == OLD
    assert command.bootable(settings, OLD.id[:8]).build == OLD
    # No mirror answers, so the newest in the cache is the newest that is known.
    assert command.bootable(settings, "debian/6.1").build == NEW


def test_a_stream_means_the_newest_kernel_in_the_suites(have: Have) -> None:
    settings = have([OLD], [OLD.release, NEW.release])
    found = command.bootable(settings, "debian/6.1")
    assert (found.build.release, found.source) == (NEW.release, "trixie")
    assert command.bootable(have([OLD], []), "debian/6.1").build == OLD


def test_without_a_network_an_older_cached_kernel_is_used(
    have: Have, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = have([OLD], [OLD.release, NEW.release])
    monkeypatch.setattr(Suites, "problem", "Debian's mirror could not be read.")
    assert command.bootable(settings, "debian/6.1").build == OLD
    assert f"There is no network. {OLD.release} from the cache is used." in capsys.readouterr().err
    with pytest.raises(FetchFailed):
        command.bootable(settings, NEW.release)


def test_an_unknown_kernel_is_refused(have: Have) -> None:
    with pytest.raises(UnknownKernel, match="in the cache or in Debian's suites"):
        command.bootable(have([OLD], [NEW.release]), "6.1.0-99-amd64")
    with pytest.raises(FetchFailed, match="There is no mirror"):
        command.bootable(have([OLD], None), "debian/6.12")


def test_for_an_unknown_kernel_the_suites_that_were_left_out_are_named(
    have: Have, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = have([], [OLD.release])
    expired = Suite("sid", ("sid",), problem="its Release file has expired")
    monkeypatch.setattr(Suites, "all", [expired])
    with pytest.raises(UnknownKernel):
        command.bootable(settings, "debian/7.2")
    assert "sid: left out: its Release file has expired." in capsys.readouterr().err
