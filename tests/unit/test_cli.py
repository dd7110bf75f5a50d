"""The command line's own text."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from bench_lib.cli import main


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_help_shows_its_examples_a_line_each(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*path, "--help"])
    assert shown.exit_code == 0
    assert "\\b" not in shown.output
    if "Example" in shown.output:
        assert any(line.startswith("    kickbench ") for line in shown.output.splitlines())
