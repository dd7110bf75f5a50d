# SPDX-License-Identifier: BSD-3-Clause
"""Names that users give: what they stand for, and how a shell completes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TypeVar

import click

from bench_lib.errors import KickbenchError
from bench_lib.kernel.ledger import Ledger
from bench_lib.kernel.names import BOOTED
from bench_lib.settings import Settings

Named = TypeVar("Named", bound=StrEnum)

Completion = Callable[[click.Context, click.Parameter, str], list[str]]
"""A function that click calls for the words that start with what the user has typed."""


def named(kind: type[Named], name: str, error: type[KickbenchError]) -> Named:
    """The member of `kind` that has this name.

    :raise error: there is no such member; the sentence lists the names that exist.
    """
    try:
        return kind(name)
    except ValueError:
        word = kind.__name__.removesuffix("Name").lower()
        raise error(f"There is no {word} {name!r}; the {word}s are {', '.join(kind)}.") from None


def completing(names: Iterable[str]) -> Completion:
    """The completion of a name that is one of these."""
    known = list(names)
    return lambda context, parameter, typed: [each for each in known if each.startswith(typed)]


def completing_kernels(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """The completion of a kernel's name: releases and streams that the ledger has.

    If the ledger cannot be read, nothing is completed.
    """
    try:
        builds = Ledger(Settings.from_environment().ledger).builds
    except KickbenchError:
        return []
    names = [BOOTED, *(each.stream for each in builds), *(each.release for each in builds)]
    return completing(dict.fromkeys(names))(context, parameter, typed)
