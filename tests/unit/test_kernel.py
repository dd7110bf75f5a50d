# SPDX-License-Identifier: BSD-3-Clause
import json
from pathlib import Path

import pytest

from bench_lib.errors import LedgerError
from bench_lib.host.identity import booted
from bench_lib.kernel.ledger import Build, Ledger, describe
from bench_lib.kernel.version import build_date, stream
from bench_lib.record import Kernel

DEBIAN = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1 (2025-11-09)"


@pytest.mark.parametrize(
    "version, date",
    [
        (DEBIAN, "2025-11-09"),
        ("#1 SMP PREEMPT_DYNAMIC Tue Mar  4 17:31:04 UTC 2025", "2025-03-04"),
        ("#7 SMP Wed Dec 24 09:00:00 CET 2025", "2025-12-24"),
        ("#1 SMP PREEMPT_DYNAMIC @1700000000", "2023-11-14"),
        ("#1 SMP PREEMPT_DYNAMIC @0", None),
        ("#1 SMP", None),
        ("#1 SMP Debian 6.1.158-1 (2026-13-45)", None),
        ("#1 SMP Mon Feb 30 12:00:00 UTC 2026", None),
        ("#1 SMP @99999999999999", None),
        ("#1 SMP @99999999999999999", None),
        ("#1 SMP @99999999999999999999999", None),
    ],
)
def test_the_date_of_a_build_is_read_from_its_version(version: str, date: str | None) -> None:
    found = build_date(version)
    assert (found.date().isoformat() if found else None) == date


@pytest.mark.parametrize(
    ("release", "version", "name"),
    [
        ("5.10.0-46-amd64", DEBIAN, "debian/5.10"),
        ("6.1.0-41-amd64", DEBIAN, "debian/6.1"),
        ("6.1.0-41-cloud-amd64", DEBIAN, "debian/6.1-cloud"),
        ("6.12.95+deb13-rt-amd64", DEBIAN, "debian/6.12-rt"),
        ("6.12.95+deb13-amd64", DEBIAN, "debian/6.12"),
        ("6.12~rc7-amd64", DEBIAN, "debian/6.12"),
        ("6.18.44-custom", "#1 SMP", "other/6.18"),
        ("6.8.0-31-generic", "#31-Ubuntu SMP PREEMPT_DYNAMIC", "other/6.8"),
        ("6.18", "#1 SMP", "other/6.18"),
        ("next-20260101", "#1 SMP", "other/next-20260101"),
    ],
)
def test_a_build_has_the_stream_of_its_series_and_flavour(
    release: str, version: str, name: str
) -> None:
    assert stream(Kernel(release, version)) == name


def _ledger(path: Path, *releases: str) -> Ledger:
    ledger = Ledger(path / "kernels.json")
    for release in releases:
        ledger.add(describe(Kernel(release, DEBIAN)))
    return ledger


def test_builds_are_sorted_by_version(tmp_path: Path) -> None:
    releases = [
        "6.2.0-rc7",
        "6.12.9-amd64",
        "6.1.0-9-amd64",
        "6.1.0-10-amd64",
        "6.1.0-9-cloud-amd64",
        "6.2.0",
    ]
    _ledger(tmp_path, *releases)
    assert [build.release for build in Ledger(tmp_path / "kernels.json").builds] == [
        "6.1.0-9-amd64", "6.1.0-9-cloud-amd64", "6.1.0-10-amd64",
        "6.2.0-rc7", "6.2.0", "6.12.9-amd64",
    ]  # fmt: skip


def test_a_build_is_added_once_and_keeps_its_date(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    dateless = Kernel("6.18.44", "#1 SMP @0")
    first = describe(dateless)
    ledger.add(first)
    ledger.add(Build("6.18.44", "#1 SMP @0", "1999-01-01", "other/6.18"))
    assert Ledger(tmp_path / "kernels.json").builds == [first]


def test_two_writers_do_not_lose_each_others_builds(tmp_path: Path) -> None:
    one, other = _ledger(tmp_path), _ledger(tmp_path)
    one.add(describe(Kernel("6.1.0", DEBIAN)))
    other.add(describe(Kernel("6.2.0", DEBIAN)))
    assert len(Ledger(tmp_path / "kernels.json").builds) == 2


def test_a_rebuild_of_a_release_has_a_tag_of_its_own(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    old, new = (
        describe(Kernel("6.1.0", f"#1 SMP Debian 6.1-1 ({day})"))
        for day in ("2025-01-01", "2025-06-01")
    )
    ledger.add(old)
    assert ledger.tag(old) == "v6.1.0"
    ledger.add(new)
    assert ledger.tag(old) == "v6.1.0"
    assert ledger.tag(new) == f"v6.1.0+{new.id[:8]}"


def test_the_same_build_has_the_same_id_everywhere() -> None:
    kernel = Kernel("6.1.0-41-amd64", DEBIAN)
    assert describe(kernel).id == "32079413e0bf11e4aa43690f82283545002986d5"
    assert describe(kernel).id != describe(Kernel("6.1.0-41-amd64", DEBIAN + " ")).id


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 1, "kernels": [{}]}'])
def test_a_damaged_ledger_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kernels.json"
    path.write_text(text)
    with pytest.raises(LedgerError, match="restore it"):
        Ledger(path)
    assert path.read_text() == text


def test_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    path.write_text(json.dumps({"schema": 2, "kernels": []}))
    with pytest.raises(LedgerError, match="update kickbench"):
        Ledger(path)


def test_adding_to_a_ledger_makes_its_folder(tmp_path: Path) -> None:
    """As for users who have neither a checkout nor a history yet."""
    path = tmp_path / "share" / "kickbench" / "kernels.json"
    Ledger(path).add(describe(booted()))
    assert Ledger(path).find(booted()) is not None


def test_a_ledger_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "folder" / "kernels.json")
    (tmp_path / "folder").touch()
    with pytest.raises(LedgerError, match="could not be written"):
        ledger.add(describe(booted()))
