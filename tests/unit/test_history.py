# SPDX-License-Identifier: BSD-3-Clause
"""`history init`, with the real git."""

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench_lib.cli import main
from bench_lib.errors import HistoryNotBegun
from bench_lib.settings import Settings
from tests.conftest import CHECKOUT


def init(folder: Path) -> Result:
    return CliRunner().invoke(main, ["history", "init", str(folder)])


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text(errors="replace")
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    folder = tmp_path / "some" / "history"
    done = init(folder)
    assert done.exit_code == 0, done.output
    return folder


def test_a_new_history_has_everything_that_asv_needs(begun: Path) -> None:
    made = contents(begun)
    for path in [CHECKOUT / "asv.conf.json", *(CHECKOUT / "benchmarks").glob("*.py")]:
        assert made.pop(str(path.relative_to(CHECKOUT))) == path.read_text()
    assert json.loads(made.pop("kernels.json")) == {"schema": 1, "kernels": []}
    assert set(made) == {".gitattributes", ".gitignore"}


def test_a_history_is_found_from_a_folder_within(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(begun / "benchmarks")
    assert Settings.from_environment().history == begun


def test_git_merges_the_records_of_two_hosts_and_ignores_what_asv_can_make_again(
    begun: Path,
) -> None:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", begun, *words], check=True, capture_output=True, text=True
        ).stdout

    assert "union" in git("check-attr", "merge", "--", ".asv/records.jsonl")
    ignored = [
        ".asv/env/x",
        ".asv/html/index.html",
        ".asv/.html.kickbench-publish-x/html/index.html",
        ".asv/publish.lock",
        "benchmarks/__pycache__/vm_stop.cpython-311.pyc",
    ]
    assert git("check-ignore", *ignored).splitlines() == ignored


def test_files_of_a_history_are_kept_and_missing_ones_added(begun: Path) -> None:
    (begun / "kernels.json").write_text("of this history")
    (begun / "benchmarks" / "vm_stop.py").write_text("changed")
    (begun / "benchmarks" / "own.py").write_text("own")
    (begun / "benchmarks" / "vm_quit.py").unlink()
    before = contents(begun)
    done = init(begun)
    assert done.exit_code == 0
    after = contents(begun)
    assert set(after) - set(before) == {"benchmarks/vm_quit.py"}
    assert {name: after[name] for name in before} == before
    assert f"{begun}/benchmarks/vm_stop.py differs from that of this version" in done.output
    assert "own.py" not in done.output


def test_no_repository_is_made_inside_another(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    assert init(tmp_path / "history").exit_code == 0
    assert not (tmp_path / "history" / ".git").exists()


@pytest.mark.parametrize("configuration", [b'{"project": "numpy"}', b"\xff\xfe"])
def test_a_folder_of_another_asv_project_is_refused(tmp_path: Path, configuration: bytes) -> None:
    (tmp_path / "asv.conf.json").write_bytes(configuration)
    done = init(tmp_path)
    assert done.exit_code == HistoryNotBegun.exit_status
    assert "belongs to another project" in done.output
    assert list(contents(tmp_path)) == ["asv.conf.json"]


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/history"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    done = init(tmp_path / place)
    assert done.exit_code == HistoryNotBegun.exit_status
    assert "No history can be started in " in done.output


def test_without_git_the_error_names_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = init(tmp_path / "history")
    assert done.exit_code == 23
    assert "git is not installed; `kickbench set-up` installs it." in done.output
    assert not contents(tmp_path)


def test_a_benchmark_that_is_not_text_differs_from_ours(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "vm_stop.py").write_bytes(b"\xff")
    done = init(tmp_path)
    assert done.exit_code == 0
    assert "vm_stop.py differs from that of this version" in done.output
