# SPDX-License-Identifier: BSD-3-Clause
"""asv's ranges of kernels in a ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from asv.repo import NoSuchNameError
from asv.util import UserError

from bench_lib.asv_bridge.repo import KernelRepo
from bench_lib.host import identity
from bench_lib.kernel.ledger import Build, Ledger, describe
from bench_lib.record import Kernel

RELEASES = ["5.10.0-46-amd64", "6.1.0-9-amd64", "6.1.0-10-amd64", "6.12.94+deb13-amd64"]
"""Oldest first; as strings, 6.1.0-10 would sort before 6.1.0-9."""

BOOTED = Kernel("7.0.0-booted", "#1 SMP Debian 7.0.0-1 (2026-02-01)")
"""Newer than the others, and not in the ledger."""


def _build(release: str, day: str = "2026-01-01") -> Build:
    return describe(Kernel(release, f"#1 SMP Debian {release} ({day})"))


@pytest.fixture
def ledger(history: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("KICKBENCH_CACHE", str(history / "cache"))
    monkeypatch.setattr(identity, "booted", lambda: BOOTED)
    made = Ledger(history / "kernels.json")
    for release in reversed(RELEASES):
        made.add(_build(release))
    return made


@pytest.fixture
def repo(ledger: Ledger) -> KernelRepo:
    return KernelRepo(str(ledger.path), "")


def _releases(repo: KernelRepo, ids: list[str]) -> list[str]:
    return [repo.build(each).release for each in ids]


FIRST, SECOND, THIRD, LAST = RELEASES


@pytest.mark.parametrize(
    ("text", "newest_first"),
    [
        (f"v{FIRST}..v{LAST}", [LAST, THIRD, SECOND]),
        (f"{FIRST}..{THIRD}", [THIRD, SECOND]),
        ("debian/5.10..debian/6.1", [THIRD, SECOND]),
        (f"v{SECOND}..", [BOOTED.release, LAST, THIRD]),
        (f"v{SECOND}..HEAD", [BOOTED.release, LAST, THIRD]),
        (f"..v{SECOND}", [SECOND, FIRST]),
        ("..", [BOOTED.release, LAST, THIRD, SECOND, FIRST]),
        (f"v{LAST}..v{FIRST}", []),
        (f"v{LAST}..v{LAST}", []),
        (f"v{SECOND}^!", [SECOND]),
        (f"v{SECOND}", [SECOND]),
        ("debian/6.1", [THIRD]),
        ("HEAD", [BOOTED.release]),
        ("kernels", [BOOTED.release]),
    ],
)
def test_a_range_is_every_build_after_its_first_up_to_its_last(
    repo: KernelRepo, text: str, newest_first: list[str]
) -> None:
    ids = repo.get_hashes_from_range(text)
    assert _releases(repo, ids) == newest_first
    assert repo.requested == ids


@pytest.mark.parametrize(
    "text", ["v5.10..v6.12", f"v{FIRST}..v9.9", f"v9.9..v{LAST}", "v9.9^!", "v9.9", f"{FIRST}...."]
)
def test_a_range_that_names_no_build_is_refused_with_the_builds(
    repo: KernelRepo, text: str
) -> None:
    """A release is named in full: there is no v5.10 and no v6.12."""
    with pytest.raises(UserError) as refused:
        repo.get_hashes_from_range(text)
    for release in [*RELEASES, BOOTED.release]:
        assert f"v{release}" in str(refused.value)
    assert repo.requested == []


def test_the_ranges_that_asv_makes_itself_are_ranges(repo: KernelRepo) -> None:
    first, last = (repo.build(each).id for each in (FIRST, THIRD))
    made = repo.get_hashes_from_range(repo.get_range_spec(first, last))
    assert _releases(repo, made) == [THIRD, SECOND]
    new = repo.get_hashes_from_range(repo.get_new_range_spec(last))
    assert _releases(repo, new) == [BOOTED.release, LAST]


def test_rebuilds_of_a_release_are_in_a_range_by_their_dates(ledger: Ledger) -> None:
    rebuilt = _build(SECOND, "2026-03-01")
    ledger.add(rebuilt)
    repo = KernelRepo(str(ledger.path), "")
    old, tag = repo.build(f"v{SECOND}"), f"v{SECOND}+{rebuilt.id[:8]}"
    assert old != rebuilt
    assert repo.get_hashes_from_range(f"v{FIRST}..{tag}") == [rebuilt.id, old.id]
    assert repo.get_hashes_from_range(f"v{SECOND}..{tag}") == [rebuilt.id]
    assert repo.get_hashes_from_range(f"{tag}..v{THIRD}") == [repo.build(THIRD).id]
    assert repo.get_name_from_hash(rebuilt.id) == tag
    assert repo.get_name_from_hash("0" * 40) is None


def test_a_parent_is_the_build_before_and_the_first_has_none(repo: KernelRepo) -> None:
    assert _releases(repo, [repo.get_hash_from_parent(THIRD)]) == [SECOND]
    assert _releases(repo, [repo.get_hash_from_parent("HEAD")]) == [LAST]
    with pytest.raises(NoSuchNameError):
        repo.get_hash_from_parent(FIRST)


def test_places_on_graphs_are_in_the_order_of_versions(repo: KernelRepo) -> None:
    ids = [repo.build(each).id for each in (LAST, FIRST, BOOTED.release)]
    assert list(repo.get_revisions(ids).values()) == [3, 0, 4]
    assert _releases(repo, repo.get_branch_commits(None)) == [BOOTED.release, *reversed(RELEASES)]
    with pytest.raises(UserError, match="0000"):
        repo.get_revisions(["0" * 40])


def test_builds_that_asv_asks_for_by_name_are_remembered(
    repo: KernelRepo,
) -> None:
    named = repo.get_hash_from_name(FIRST)
    assert repo.get_hash_from_name(None) == repo.booted.id
    assert repo.requested == [named]


def test_a_booted_kernel_that_is_in_the_ledger_is_its_entry(ledger: Ledger) -> None:
    """With the date of its first measurement, where its version string has none."""
    entry = Build(BOOTED.release, BOOTED.version, "2020-01-01", "other/7.0")
    ledger.add(entry)
    repo = KernelRepo(str(ledger.path), "")
    assert repo.booted == entry
    assert repo.get_date("HEAD") == 1577836800000


def test_a_file_that_is_no_ledger_is_an_error_of_asvs(history: Path) -> None:
    (history / "kernels.json").write_text("[]")
    with pytest.raises(UserError, match=r"kernels\.json"):
        KernelRepo(str(history / "kernels.json"), "")
