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


def _drawn() -> dict[str, str]:
    """The base of each class but the first, as the module's docstring draws the tree."""
    bases: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"([ \u2500-\u257f]+)([A-Z]\w+)(?:  .*)?", line)
        if match is None:
            continue
        while above and above[-1][0] >= len(match[1]):
            above.pop()
        if above:
            bases[match[2]] = above[-1][1]
        above.append((len(match[1]), match[2]))
    return bases


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    classes = [each for each in _classes() if each is not KickbenchError]
    assert _drawn() == {each.__name__: each.__bases__[0].__name__ for each in classes}


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
