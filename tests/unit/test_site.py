# SPDX-License-Identifier: BSD-3-Clause
"""The site that Sphinx makes of docs/: it is complete, and needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.pages import DOCS

LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""The attribute with the address that a browser loads, by element."""


class Page(HTMLParser):
    """A page of the site. :ivar loads: the addresses that a browser loads to show it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if LOADS.get(tag) in given:
            self.loads.append(given[LOADS[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the site; Sphinx must make it without a warning."""
    folder = tmp_path_factory.mktemp("site")
    options = ["-q", "-W", "--keep-going", "--nitpicky", "-d", str(folder / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, DOCS, folder / "html"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in (folder / "html").rglob("*.html")}


def test_every_page_is_in_the_site(site: dict[Path, Page]) -> None:
    written = {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")}
    (root,) = (path.parent for path in site if path.name == "index.html")
    assert {path.relative_to(root).with_suffix("") for path in site} >= written


def test_links_within_the_site_lead_somewhere(site: dict[Path, Page]) -> None:
    broken = []
    for path, page in site.items():
        for link in page.links:
            if (parts := urlsplit(link)).scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or (
                parts.fragment and target in site and parts.fragment not in site[target].ids
            ):
                broken.append((path.name, link))
    assert sum(len(page.links) for page in site.values()) > 100
    assert not broken


def test_the_site_loads_nothing_from_the_network(site: dict[Path, Page]) -> None:
    loads = {load for page in site.values() for load in page.loads}
    assert any(load.endswith(".png") for load in loads)
    assert not [load for load in loads if re.match(r"(?:[a-z]+:)?//", load)]
    (root,) = (path.parent for path in site if path.name == "index.html")
    sheets = [path.read_text() for path in root.rglob("*.css")]
    assert sheets
    assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:[a-z]+:)?//[^)]*", "".join(sheets))
