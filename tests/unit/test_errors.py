# SPDX-License-Identifier: BSD-3-Clause
import re

from bench_lib import errors
from bench_lib.errors import KickbenchError, TrialLost
from tests.conftest import CHECKOUT


def _classes() -> list[type[KickbenchError]]:
    return [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, KickbenchError)
    ]


def test_every_way_to_fail_has_an_exit_status_of_its_own() -> None:
    statuses = [
        each.exit_status
        for each in _classes()
        if not issubclass(each, TrialLost) or each is TrialLost
        if "exit_status" in vars(each)
    ]
    assert len(statuses) == len(set(statuses))
    assert all(0 < status < 126 for status in statuses)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    for each in _classes():
        assert f"{each.__name__} " in errors.__doc__ or f"{each.__name__}\n" in errors.__doc__


def _listed() -> list[int]:
    """The statuses in the page's table of exit statuses, in its order."""
    page = (CHECKOUT / "docs" / "reference" / "exit-statuses.md").read_text()
    cells = re.findall(r"^\| ([0-9, ]+) \|", page, re.MULTILINE)
    return [int(number) for cell in cells for number in cell.split(",")]


def test_the_page_lists_every_exit_status_and_no_other() -> None:
    success, signals = {0}, {129, 130, 143}
    of_classes = {each.exit_status for each in _classes() if "exit_status" in vars(each)}
    assert set(_listed()) == success | of_classes | signals


def test_the_page_lists_each_exit_status_once_and_in_order() -> None:
    listed = _listed()
    assert listed == sorted(set(listed))
