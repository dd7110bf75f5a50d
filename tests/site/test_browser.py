# SPDX-License-Identifier: BSD-3-Clause
"""The fixture `browser` sees what a page requests and what fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench_lib.deadline import Deadline
from tests.conftest import HANG_S
from tests.site.conftest import Browser

PAGE = "<!doctype html><link rel=icon href=data:,><script src={}></script>"


def test_a_request_is_seen(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    (tmp_path / "script.js").write_text("")
    page.write_text(PAGE.format("script.js"))
    browser.driver.get(page.as_uri())
    assert {page.as_uri(), (tmp_path / "script.js").as_uri()} <= set(browser.requests())


def test_a_request_to_another_host_fails_and_is_seen(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(PAGE.format("http://elsewhere.invalid/script.js"))
    browser.driver.get(page.as_uri())
    limit = Deadline.after(HANG_S)

    def look() -> None:
        while not limit.passed:
            browser.requests()

    with pytest.raises(AssertionError, match="ERR_NAME_NOT_RESOLVED"):
        look()
    assert "elsewhere.invalid" in "".join(browser.complaints())
