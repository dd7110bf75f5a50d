"""Names that users give, turned into what they stand for."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from bench_lib.errors import KickbenchError

Named = TypeVar("Named", bound=StrEnum)


def named(kind: type[Named], name: str, error: type[KickbenchError]) -> Named:
    """The member of `kind` that is called so.

    :raise error: there is none; the sentence says which there are.
    """
    try:
        return kind(name)
    except ValueError:
        word = kind.__name__.removesuffix("Name").lower()
        known = ", ".join(kind)
        raise error(f"There is no {word} {name!r}; there is {known}.") from None
