# SPDX-License-Identifier: BSD-3-Clause
"""The documentation, parsed as Markdown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin

from tests.conftest import CHECKOUT

DOCS = CHECKOUT / "docs"

PAGES = sorted([*CHECKOUT.glob("*.md"), *DOCS.rglob("*.md")])
"""All pages of documentation."""

MARK = re.compile(r"<!-- run( with KVM)?(?:: exits (\d+))? -->")
"""The comment above a console block that a test runs."""


@dataclass(frozen=True)
class Block:
    """A block of code.

    :ivar exits: the exit status of its last command; None if no test runs the block.
    :ivar kvm: whether its commands need KVM and root, so that their output depends on the host.
    """

    page: Path
    language: str
    text: str
    exits: int | None
    kvm: bool

    @property
    def commands(self) -> list[str]:
        """The lines that a reader would type."""
        if self.language == "console":
            return [line[2:] for line in self.text.splitlines() if line.startswith(("$ ", "> "))]
        return self.text.splitlines() if self.language == "sh" else []

    @property
    def output(self) -> list[str]:
        """The lines that the commands print, without empty ones."""
        lines = self.text.splitlines()
        return [each.rstrip() for each in lines if each.strip() and not each.startswith("$ ")]


@cache
def tokens(page: Path) -> list[Token]:
    """The tokens of a page."""
    parser = MarkdownIt("commonmark").enable("table")
    anchors_plugin(parser, max_level=6)
    return parser.parse(page.read_text())


def run(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the commands of a block in one shell, in the checkout.

    :param folder: the history that the commands use.
    """
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KICKBENCH_HISTORY": str(folder),
        "TMPDIR": str(folder),
    }
    return subprocess.run(
        ["bash", "-c", "\n".join(block.commands)],
        cwd=CHECKOUT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def blocks(page: Path) -> Iterator[Block]:
    """Every block of code of a page."""
    match: re.Match[str] | None = None
    for token in tokens(page):
        if token.type == "fence":
            exits = int(match[2] or 0) if match else None
            yield Block(page, token.info, token.content, exits, bool(match and match[1]))
        match = MARK.search(token.content) if token.type == "html_block" else None


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    found = (token.attrGet("id") for token in tokens(page) if token.type == "heading_open")
    return {str(each) for each in found if each}


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures."""
    inner = [child for token in tokens(page) for child in token.children or []]
    found = (token.attrGet("href") or token.attrGet("src") for token in inner)
    return [str(each) for each in found if each]


def code(page: Path) -> list[str]:
    """The words of a page that are in backticks."""
    inner = [child for token in tokens(page) for child in token.children or []]
    return [token.content for token in inner if token.type == "code_inline"]


def first_column(page: Path, head: str) -> list[str]:
    """The words in backticks in the first column of the tables with this head of that column."""
    words: list[str] = []
    for table in _tables(page):
        if re.sub("`", "", table[0][0]) == head:
            words += [word for row in table[1:] for word in re.findall(r"`([^`]+)`", row[0])]
    return words


def _tables(page: Path) -> Iterator[list[list[str]]]:
    """Every table of a page: rows of cells, as Markdown."""
    table: list[list[str]] = []
    row: list[str] = []
    for token in tokens(page):
        if token.type == "table_open":
            table = []
        elif token.type == "tr_open":
            row = []
        elif token.type == "inline":
            row.append(token.content)
        elif token.type == "tr_close":
            table.append(row)
        elif token.type == "table_close":
            yield table
