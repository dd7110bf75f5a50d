# SPDX-License-Identifier: BSD-3-Clause
"""Debian's suites, read by the real apt from a good archive and from faulty ones."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from bench_lib.cli import main
from bench_lib.errors import FetchFailed, ProgramMissing
from bench_lib.kernel import debian
from bench_lib.kernel.store import Store
from bench_lib.kernel.suites import Suites
from tests import archive as made
from tests.archive import Archive, Host, signer

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs apt")

OLD, STABLE, PATCHED = "5.10.0-46-amd64", "6.12.94+deb13-amd64", "6.12.118+deb13-amd64"
NEW = "7.2.13+deb14-amd64"
ALL = [OLD, STABLE, PATCHED, NEW]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "suites"


@pytest.fixture
def mirror(archive: Archive, tmp_path: Path) -> Archive:
    """An archive with four suites, one of which is a -security suite."""
    debs = tmp_path / "debs"
    archive.suite("oldoldstable", "bullseye", [made.kernel(debs / "a", OLD)])
    archive.suite(
        "stable", "trixie", [made.kernel(debs / "b", STABLE), made.default(debs / "b", STABLE)]
    )
    archive.suite(
        "stable-security",
        "trixie-security",
        [made.kernel(debs / "c", PATCHED), made.default(debs / "c", PATCHED)],
    )
    archive.suite("testing", "forky", made.split_kernel(debs / "d", NEW))
    return archive


def _read(folder: Path, *expired: str) -> Suites:
    suites = Suites(folder, expired)
    suites.refresh(lambda _: None)
    return suites


def _releases(suites: Suites) -> list[str]:
    return [each.release for each in debian.offers(suites)]


def _remark(suites: Suites, name: str) -> str:
    (found,) = [each for each in suites.remarks() if name in each]
    return found


def test_every_suite_is_read_and_the_hosts_apt_is_untouched(
    mirror: Archive, host: Host, folder: Path
) -> None:
    suites = _read(folder)
    assert _releases(suites) == ALL
    assert suites.meanings() == {
        "debian/trixie": PATCHED,
        "debian/stable": PATCHED,
    }
    assert not suites.stale
    assert _releases(Suites(folder)) == ALL
    assert not host.read()
    assert not host.hook_ran.exists()


def test_of_two_builds_of_a_release_the_newest_is_offered(
    archive: Archive, host: Host, tmp_path: Path, folder: Path
) -> None:
    archive.suite("stable", "trixie", [made.kernel(tmp_path / "a", STABLE, "6.12.94-2")])
    archive.suite(
        "stable-security", "trixie-security", [made.kernel(tmp_path / "b", STABLE, "6.12.94-10")]
    )
    (offer,) = debian.offers(_read(folder))
    assert (offer.kernel.version, offer.suite) == ("6.12.94-10", "trixie-security")


def test_a_kernel_in_several_packages_is_fetched_whole(
    mirror: Archive, host: Host, folder: Path, tmp_path: Path
) -> None:
    suites = _read(folder)
    store = Store(tmp_path / "kernels")
    offer = debian.offers(suites)[-1]
    assert len(offer.kernel.packages) == 4
    seen: list[tuple[int, int]] = []
    fetched = debian.fetch(store, suites, offer, lambda there, size: seen.append((there, size)))
    assert fetched.build.release == NEW
    assert fetched.vmlinuz.is_file()
    assert (fetched.modules / "modules.dep").is_file()
    assert seen[-1] == (offer.bytes, offer.bytes)
    assert debian.find(store, offer) == fetched
    assert debian.find(store, debian.offers(suites)[0]) is None


def test_a_missing_mirror_of_security_is_remarked(
    mirror: Archive, host: Host, folder: Path
) -> None:
    host.gets_debian_from(f"file:{mirror.folder}", security=False)
    suites = _read(folder)
    assert _releases(suites) == [OLD, STABLE, NEW]
    assert "no mirror of debian-security" in _remark(suites, "This host's apt")


def test_suites_that_a_mirror_lacks_are_remarked(mirror: Archive, host: Host, folder: Path) -> None:
    suites = _read(folder)
    assert _remark(suites, "trixie-updates: left out: ")
    assert _remark(suites, "unstable cannot be read from the mirror file:")
    # A suite that was read before stays in use.
    mirror.dists("testing").unlink()
    suites = _read(folder)
    assert _remark(suites, "testing cannot be read from the mirror file:")
    assert _remark(suites, "forky: the list of a moment ago is used: testing could not be read.")
    assert _releases(suites) == ALL


def test_a_suite_whose_release_file_has_expired_is_named_and_left_out(
    mirror: Archive, host: Host, folder: Path, tmp_path: Path
) -> None:
    newest = "7.3.1+deb15-amd64"
    mirror.suite("unstable", "sid", made.split_kernel(tmp_path / "e", newest), expired=True)
    suites = _read(folder)
    assert _releases(suites) == ALL
    assert "KICKBENCH_EXPIRED=sid" in _remark(suites, "sid: left out: its Release file has expired")
    for name in ("sid", "unstable"):
        assert Suites(folder, [name]).stale, "the setting would only help hours later"
        suites = _read(folder, name)
        assert not suites.stale
        assert _releases(suites) == [*ALL, newest]
        assert _remark(suites, "of sid have expired, the oldest 2 days ago")
        _read(folder)


def test_lists_of_suites_that_are_no_longer_read_are_deleted(
    mirror: Archive, host: Host, folder: Path
) -> None:
    _read(folder)
    old = folder / "buster" / "lists"
    old.mkdir(parents=True)
    _read(folder)
    assert not old.exists()
    assert (folder / "trixie" / "lists").is_dir()


def test_a_list_with_a_wrong_signature_is_not_kept(
    mirror: Archive, host: Host, folder: Path, tmp_path: Path
) -> None:
    with signer() as other:
        mirror.suite("testing", "forky", made.split_kernel(tmp_path / "e", NEW), key=other)
        suites = _read(folder)
    assert _releases(suites) == [OLD, STABLE, PATCHED]
    assert not list((folder / "forky" / "lists").glob("*forky*"))


def test_a_list_with_a_wrong_hash_is_refused_and_the_last_one_stays_in_use(
    mirror: Archive, host: Host, folder: Path, tmp_path: Path
) -> None:
    _read(folder)
    newer = "7.2.14+deb14-amd64"
    packages = mirror.suite("testing", "forky", made.split_kernel(tmp_path / "e", newer))
    text = packages.read_bytes()
    packages.write_bytes(text[: len(text) // 2])
    suites = _read(folder)
    assert _releases(suites) == ALL
    assert _remark(suites, "forky: the list of a moment ago is used: ")
    # The mirror has been completed.
    packages.write_bytes(text)
    suites = _read(folder)
    assert newer in _releases(suites)
    assert not any(each.startswith("forky: ") for each in suites.remarks())


def test_without_a_mirror_the_last_lists_are_used_and_their_age_is_shown(
    mirror: Archive, host: Host, folder: Path
) -> None:
    _read(folder)
    _age_by(folder, timedelta(days=3))
    shutil.rmtree(mirror.folder)
    with pytest.raises(FetchFailed):
        _read(folder)
    suites = Suites(folder)
    assert _releases(suites) == ALL
    assert "and those of 3 days ago are used" in suites.remarks()[0]
    assert not suites.stale, "every command would wait for the mirror"


@pytest.mark.parametrize("uri", ["file:/nothing/here", "http://127.0.0.1:1"])
def test_without_a_network_and_without_lists_the_reason_is_reported(
    host: Host, folder: Path, uri: str
) -> None:
    host.gets_debian_from(uri)
    with pytest.raises(
        FetchFailed, match=r"the cache has none: (The repository '|Failed to fetch )"
    ):
        _read(folder)
    assert "the cache has none" in Suites(folder).remarks()[0]


def test_a_cache_whose_name_apt_cannot_read_is_refused(
    mirror: Archive, host: Host, tmp_path: Path
) -> None:
    suites = Suites(tmp_path / 'a"quote')
    with pytest.raises(FetchFailed, match=r"a double quote.* set KICKBENCH_CACHE"):
        suites.refresh(lambda there: None)


def test_a_cache_may_have_any_other_name(mirror: Archive, host: Host, tmp_path: Path) -> None:
    suites = _read(tmp_path / "a b,c'd;e{f}%41\\gü$(h)")
    assert _releases(suites)


def test_lists_are_old_after_six_hours(mirror: Archive, host: Host, folder: Path) -> None:
    _read(folder)
    _age_by(folder, timedelta(hours=5, minutes=59))
    assert not Suites(folder).stale
    _age_by(folder, timedelta(minutes=2))
    assert Suites(folder).stale
    assert Suites(folder).age() == "6 hours ago"


def test_a_damaged_file_of_suites_is_made_again(mirror: Archive, host: Host, folder: Path) -> None:
    _read(folder)
    (folder / "suites.json").write_text("{")
    assert Suites(folder).stale
    assert _releases(_read(folder)) == ALL


def test_a_host_without_a_mirror_of_debian_is_refused(host: Host, folder: Path) -> None:
    (host.folder / "sources.list").write_text("")
    with pytest.raises(FetchFailed, match=r"names no mirror of Debian.*kernels add"):
        _read(folder)


def test_a_host_without_apt_can_still_list_its_kernels(
    history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("KICKBENCH_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(main, ["kernels", "list", "--json"])
    assert done.exit_code == 0, done.output
    assert [row["booted"] for row in json.loads(done.stdout)] == [True]
    assert "apt-get is not installed" in done.stderr
    done = CliRunner().invoke(main, ["kernels", "fetch", "debian/6.1"])
    assert done.exit_code == ProgramMissing.exit_status


def test_a_user_sees_the_newest_of_each_stream_or_all(
    mirror: Archive, host: Host, history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KICKBENCH_CACHE", str(tmp_path / "cache"))

    def listed(*options: str) -> list[str]:
        done = CliRunner().invoke(main, ["kernels", "list", "--json", *options])
        assert done.exit_code == 0, done.output
        assert "Debian's lists were read a moment ago." in done.stderr
        return [row["release"] for row in json.loads(done.stdout) if not row["booted"]]

    assert listed() == [OLD, PATCHED, NEW]
    assert listed("--all") == ALL
    mirror.suite("oldstable", "bookworm", [made.kernel(tmp_path / "e", "6.1.0-56-amd64")])
    assert listed() == [OLD, PATCHED, NEW]
    assert listed("--refresh") == [OLD, "6.1.0-56-amd64", PATCHED, NEW]


def _age_by(folder: Path, age: timedelta) -> None:
    """Move every time in the file of suites into the past."""
    file = folder / "suites.json"
    data = json.loads(file.read_text())

    def earlier(moment: str) -> str:
        return (datetime.fromisoformat(moment) - age).isoformat() if moment else ""

    data["tried"] = earlier(data["tried"])
    for suite in data["suites"]:
        suite["read"] = earlier(suite["read"])
    file.write_bytes(msgspec.json.encode(data))
    assert datetime.fromisoformat(data["tried"]) < datetime.now(UTC)
