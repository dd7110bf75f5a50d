# SPDX-License-Identifier: BSD-3-Clause
"""What users of a fleet may ask of its hosts."""

from __future__ import annotations

from collections.abc import Iterable

from bench_lib.errors import UnknownHost
from bench_lib.fleet.status import HostState

OUT_OF_USE = frozenset({HostState.SET_ASIDE, HostState.DRAINED})
"""The states in which a host gets no work until the operator changes that."""


def unknown_host(name: str, known: Iterable[str]) -> UnknownHost:
    """Return the error for a host that the fleet does not have."""
    there = ", ".join(sorted(known)) or "none"
    return UnknownHost(f"The fleet has no host {name}; its hosts are: {there}.")
