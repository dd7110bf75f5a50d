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


def test_the_readme_lists_every_exit_status() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    for each in _classes():
        if "exit_status" in vars(each):
            assert f"| {each.exit_status} |" in readme, each
