"""What holds for the files of the repository as a whole."""

from __future__ import annotations

from bench_lib import __version__
from tests.conftest import CHECKOUT


def test_the_change_log_tells_of_this_version() -> None:
    assert f"\n## {__version__}\n" in (CHECKOUT / "CHANGELOG.md").read_text()
