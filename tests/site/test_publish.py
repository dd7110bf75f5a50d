# SPDX-License-Identifier: BSD-3-Clause
"""`asv publish`: it replaces the site as a whole or not at all."""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path

import pytest

from bench_lib import record
from bench_lib.asv_bridge import publish as publishing
from bench_lib.kernel.ledger import describe
from tests.conftest import HANG_S
from tests.make import record as make
from tests.site.conftest import ASV, KERNELS, Publish, add_asv_results, records

LEFT = ".html.kickbench-publish-"
"""The prefix of the folders in which a publish works."""


def _contents(folder: Path) -> dict[str, object]:
    """The contents of each file, without the order of keys and without files that have the time."""
    return {
        str(path.relative_to(folder)): (
            json.loads(path.read_text()) if path.suffix == ".json" else path.read_bytes()
        )
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {"info.json", "regressions.xml"}
    }


def test_files_of_the_old_site_are_removed(site: Path, publish: Publish) -> None:
    (site / "trials" / "of a kernel that is no more.js").touch()
    assert publish().returncode == 0
    assert not (site / "trials" / "of a kernel that is no more.js").exists()


def test_a_full_disk_leaves_the_old_site_whole(site: Path, history: Path) -> None:
    before = _contents(site)
    record.append(history / ".asv" / "records.jsonl", *[make()] * 50)
    done = subprocess.run(
        [ASV, "publish"],
        capture_output=True,
        text=True,
        check=False,
        # No file may be larger, which is the same error as a full disk, except for its text.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode != 0
    assert f"{site} is unchanged" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert _contents(site) == before
    assert not list(site.parent.glob(".html*"))


def test_folders_of_a_killed_publish_are_removed(site: Path, publish: Publish) -> None:
    (site.parent / f"{LEFT}1" / "html").mkdir(parents=True)
    (site.parent / ".html.somebody's").mkdir()
    assert publish().returncode == 0
    assert not list(site.parent.glob(f"{LEFT}*"))
    assert (site.parent / ".html.somebody's").exists()


def test_the_old_site_is_restored_if_a_killed_publish_left_only_that(site: Path) -> None:
    folder = site.parent / f"{LEFT}1"
    folder.mkdir()
    before = _contents(site)
    site.rename(folder / "old")
    publishing._sweep(site, LEFT)
    assert _contents(site) == before
    assert not folder.exists()


def test_if_folders_cannot_be_exchanged_the_old_site_is_moved_away(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on many network file systems."""
    monkeypatch.setattr(publishing, "_exchange", lambda new, site: False)
    folder = tmp_path / "publishing"
    (folder / "html").mkdir(parents=True)
    publishing._put_in_place(folder / "html", site)
    assert not list(site.iterdir())
    assert (folder / "old" / "index.html").exists()


def test_if_the_new_site_cannot_be_moved_the_old_one_is_put_back(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "_exchange", lambda new, site: False)
    before = _contents(site)
    (tmp_path / "publishing").mkdir()
    with pytest.raises(FileNotFoundError):
        publishing._put_in_place(tmp_path / "publishing" / "not there", site)
    assert _contents(site) == before


def test_a_site_that_is_a_link_stays_a_link(
    site: Path, history: Path, publish: Publish, tmp_path: Path
) -> None:
    """As in the folder of a web server: the site is published to the target of the link."""
    elsewhere = tmp_path / "www"
    site.rename(elsewhere)
    site.symlink_to(elsewhere)
    (elsewhere / "old").touch()
    assert publish().returncode == 0
    assert site.is_symlink()
    assert not (elsewhere / "old").exists()
    assert (elsewhere / "index.html").exists()


def test_two_publishes_at_once_make_one_site(site: Path, history: Path) -> None:
    before = _contents(site)
    both = [subprocess.Popen([ASV, "publish"], stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [each.wait(timeout=HANG_S) for each in both] == [0, 0]
    assert _contents(site) == before
    assert not list(site.parent.glob(".html*"))


def test_a_publish_waits_for_another(site: Path) -> None:
    with publishing._locked(site.parent):
        second = subprocess.Popen([ASV, "publish"], stdout=subprocess.DEVNULL)
        lock = str((site.parent / "publish.lock").stat().st_ino)
        # The kernel marks waiters for a lock with an arrow; see proc_locks(5).
        while not any("->" in line and f":{lock} " in line for line in _locks()):
            assert second.poll() is None, "it has not waited"
        assert not list(site.parent.glob(f"{LEFT}*"))
    assert second.wait(timeout=HANG_S) == 0


def _locks() -> list[str]:
    return Path("/proc/locks").read_text().splitlines()


@pytest.mark.parametrize("text", ["{", "[]", '{"commit_hash": 1}'])
def test_a_result_of_asvs_that_was_damaged_by_hand_is_named_and_left_out(
    site: Path, history: Path, publish: Publish, text: str
) -> None:
    assert _points(site) == {"environment-kernel-host": 1, "environment-kernel-lab-tcg": 1}
    damaged, _ = (
        history / ".asv" / "results" / "somewhere" / f"{describe(kernel).id}-kernel-host.json"
        for kernel in KERNELS[:2]
    )
    damaged.write_text(text)
    done = publish()
    assert done.returncode == 0, done.stderr
    assert damaged.name in done.stdout
    assert _points(site) == {"environment-kernel-host": 1}


def _points(site: Path) -> dict[str, int]:
    """How many points the graph of `stop` has, by environment."""
    return {
        environment: len(json.loads(graph.read_text()))
        for graph in (site / "graphs").glob("**/*.track_latency.json")
        for environment in graph.parts
        if environment.startswith("environment-")
    }


def test_results_of_a_lab_have_their_own_graph(site: Path) -> None:
    assert _points(site) == {"environment-kernel-host": 1, "environment-kernel-lab-tcg": 1}


def test_no_page_refers_to_the_web(site: Path) -> None:
    """asv's own pages, which do, are removed."""
    texts = {path.name: path.read_text() for path in site.glob("*.html")}
    assert {"index.html", "history.html"} <= set(texts)
    assert not [name for name, text in texts.items() if "https://" in text]


def test_benchmarks_that_never_ran_are_not_listed(history: Path, publish: Publish) -> None:
    record.append(history / ".asv" / "records.jsonl", *records())
    add_asv_results(history, KERNELS[:2])
    for path in (history / ".asv" / "results" / "somewhere").glob("*-kernel-host.json"):
        path.unlink()
    assert publish().returncode == 0
    assert '"benchmarks":{}' in (history / ".asv" / "html" / "index.json").read_text()


def test_a_record_of_a_newer_schema_is_left_out_with_a_warning(
    history: Path, publish: Publish
) -> None:
    path = history / ".asv" / "records.jsonl"
    record.append(path, *records())
    with path.open("a") as file:
        file.write('{"schema": 99}\n')
    done = publish()
    assert done.returncode == 0
    assert "schema 99 is newer" in done.stdout + done.stderr
