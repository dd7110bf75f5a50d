# SPDX-License-Identifier: BSD-3-Clause
"""README.md, CONTRIBUTING.md and docs/: what they name exists, and their examples are right."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import click
import pytest

from bench_lib.cli import main
from bench_lib.guest.workloads.description import WORKLOADS
from bench_lib.record import Entry, Outcome, RequestName, ScenarioName, WaitsFor
from bench_lib.trial.timeline import STAGES
from tests import pages
from tests.conftest import CHECKOUT
from tests.pages import DOCS, PAGES, Block

SCENARIOS_AND_REQUESTS = DOCS / "scenarios-and-requests.md"
RESULTS = DOCS / "results.md"

PATHS = re.compile(r"(?:bench_lib|benchmarks|docs|guest-images|tests|tools)/[\w./-]+")

BLOCKS = [block for page in PAGES for block in pages.blocks(page)]
RUN = [block for block in BLOCKS if block.exits is not None and not block.kvm]


def name(value: Path | Block) -> str:
    """The id of a test's case."""
    return str((value.page if isinstance(value, Block) else value).relative_to(CHECKOUT))


def test_the_readme_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    broken = []
    for link in pages.links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in pages.anchors(target)):
            broken.append(link)
    assert not broken


def test_a_broken_link_would_be_seen() -> None:
    assert "../results.md#outcomes" in pages.links(DOCS / "reference" / "records.md")
    assert "outcomes" in pages.anchors(RESULTS)
    assert "outcome" not in pages.anchors(RESULTS)


def _gone(words: Iterable[str]) -> list[str]:
    """The words that are paths of files that do not exist; names in capitals stand for any."""
    named = [each for each in words if PATHS.fullmatch(each) and not re.search("[A-Z]{4}", each)]
    return [each for each in named if not (CHECKOUT / each).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    assert not _gone(pages.code(page))


def test_a_file_that_does_not_exist_would_be_seen() -> None:
    assert _gone(["bench_lib/gone.py", "bench_lib/errors.py", "docs/NAME.md"]) == [
        "bench_lib/gone.py"
    ]
    assert "bench_lib/trial/one.py" in pages.code(DOCS / "architecture.md")


def _words(line: str) -> list[str]:
    """The arguments of kickbench in a line of shell; none if the line does not run it."""
    words = shlex.split(line, comments=True)
    starts = [at for at, word in enumerate(words) if Path(word).name == "kickbench"]
    if not starts or words[0] == "git":
        return []
    begun = words[starts[0] + 1 :]
    ends = [at for at, word in enumerate(begun) if word in {"&&", "||", ";", "|", "--"}]
    return begun[: ends[0]] if ends else begun


def _unknown(line: str) -> list[str]:
    """The commands and options in a line that kickbench does not have."""
    command: click.Command = main
    unknown = []
    for word in _words(line):
        if isinstance(command, click.Group) and not word.startswith("-"):
            found = command.commands.get(word)
            if found is None:
                return [word]
            command = found
        elif word.startswith("-"):
            known = {"--help", "-h", *(each for param in command.params for each in param.opts)}
            unknown += [] if word.partition("=")[0] in known else [word]
    return unknown


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_options_that_a_page_shows_exist(page: Path) -> None:
    lines = [line for block in pages.blocks(page) for line in block.commands]
    lines += [each for each in pages.code(page) if each.startswith("kickbench ")]
    assert not [line for line in lines if _unknown(line)]


def test_an_option_that_does_not_exist_would_be_seen() -> None:
    assert _unknown("kickbench lab campaign debian/6.1 --boots 6 --cores 2") == ["--cores"]
    assert _unknown(".venv/bin/kickbench judge") == ["judge"]
    shown = [line for block in BLOCKS for line in block.commands if _words(line)]
    assert len(shown) > 20


EXCERPTS = [block for block in BLOCKS if block.language == "python"]


@pytest.mark.parametrize("block", EXCERPTS, ids=name)
def test_an_excerpt_is_in_the_code(block: Block) -> None:
    sources = (path.read_text() for path in (CHECKOUT / "bench_lib").rglob("*.py"))
    assert block.text.strip()
    assert any(block.text in source for source in sources)


def test_there_are_excerpts() -> None:
    assert {block.page.name for block in EXCERPTS} == {"architecture.md"}


@pytest.mark.parametrize("block", RUN, ids=name)
def test_a_command_prints_what_its_page_shows(block: Block, history: Path) -> None:
    done = pages.run(block, history)
    printed = "\n".join(line.rstrip() for line in done.stdout.splitlines() if line.strip())
    pattern = ".*".join(
        re.escape(part.strip("\n"))
        for part in re.split(r"^\.\.\.$", "\n".join(block.output), flags=re.MULTILINE)
    )
    assert re.fullmatch(pattern, printed, re.DOTALL), printed
    assert done.returncode == block.exits


def test_there_are_commands_that_are_run() -> None:
    assert {block.page.name for block in RUN} >= {
        "README.md",
        "get-started.md",
        "gate.md",
        "history.md",
    }


@pytest.mark.parametrize(
    "page, head, words",
    [
        (SCENARIOS_AND_REQUESTS, "scenario", ScenarioName),
        (SCENARIOS_AND_REQUESTS, "request", RequestName),
        (SCENARIOS_AND_REQUESTS, "image", WORKLOADS),
        (RESULTS, "stage", STAGES),
        (RESULTS, "outcome", Outcome),
        (RESULTS, "entry", Entry),
        (RESULTS, "waits_for", WaitsFor),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_has_the_words_that_the_code_has(
    page: Path, head: str, words: Iterable[StrEnum | str]
) -> None:
    assert pages.first_column(page, head) == [str(each) for each in words]


def test_the_page_of_packages_has_every_package() -> None:
    listed = pages.first_column(DOCS / "architecture.md", "package")
    there = {
        path.stem
        for path in (CHECKOUT / "bench_lib").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem != "__init__"
    }
    assert sorted(listed) == sorted(there)
