"""The command line's own text."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench_lib.cli import kernels, main
from bench_lib.errors import MemoryDamaged, RecordNotWritten, UnknownKernel
from bench_lib.record import Record, Recovery
from bench_lib.trial import batch
from tests.make import record


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


def test_damage_is_told_also_where_something_else_ends_the_run(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = dataclasses.replace(record(seq=3), recovery=Recovery(None, None, "damaged"))

    def run(cases: object, settings: object, on_record: Callable[[Record], None]) -> None:
        on_record(damaged)
        raise RecordNotWritten("The disk is full.")

    monkeypatch.setattr(batch, "run", run)
    shown = CliRunner().invoke(main, ["trial", "--scenario", "paused", "--request", "stop"])
    assert shown.exit_code == MemoryDamaged.exit_status
    loud, sentence = (line for line in shown.output.splitlines() if line.startswith("kickbench: "))
    assert loud.startswith("kickbench: MEMORY DAMAGED: the guest of trial 3 ")
    assert sentence == "kickbench: The disk is full."


def test_damage_under_one_kernel_is_told_where_the_next_cannot_be_run(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = dataclasses.replace(record(seq=3), recovery=Recovery(None, None, "damaged"))
    monkeypatch.setattr(batch, "run", lambda cases, settings, on_record: on_record(damaged))

    def bootable(settings: object, name: str) -> None:
        raise UnknownKernel(f"There is no kernel {name}.")

    monkeypatch.setattr(kernels, "bootable", bootable)
    shown = CliRunner().invoke(main, ["matrix", "--kernel", "booted", "--kernel", "nothing"])
    assert shown.exit_code == MemoryDamaged.exit_status
    assert "MEMORY DAMAGED: the guest of trial 3 " in shown.output
    assert "There is no kernel nothing." in shown.output
