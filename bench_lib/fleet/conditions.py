# SPDX-License-Identifier: BSD-3-Clause
"""What has to stay the same on a host for its records to be compared with one another."""

from __future__ import annotations

from collections.abc import Mapping

from bench_lib.fleet.facts import HostFacts
from bench_lib.record import Record, Setup
from bench_lib.verdict.matching import HOST_FIELDS

QEMU = "QEMU"

Conditions = dict[str, set[str]]
"""For each condition, the values that were found. What is not known is not in it."""


def of_record(record: Record) -> dict[str, str]:
    """Return the conditions on the host when a record was made there, natively or in a lab."""
    return _conditions(record.lab_qemu or record.qemu, record.lab_setup or record.setup)


def of_host(facts: HostFacts) -> dict[str, str]:
    """Return the conditions on a host now."""
    return _conditions(facts.qemu, facts.setup)


def changed(before: Mapping[str, set[str]], now: Mapping[str, str]) -> str | None:
    """Return what has changed on a host, as a part of a sentence; None if nothing has."""
    for name, value in now.items():
        values = before.get(name)
        if values and value not in values:
            return f"its {name} is {value} now, and was {', '.join(sorted(values))}"
    return None


def _conditions(qemu: str | None, setup: Setup | None) -> dict[str, str]:
    found: dict[str, object] = {QEMU: qemu}
    if setup is not None:
        found |= {name: getattr(setup, name) for name in HOST_FIELDS}
    return {name: str(value) for name, value in found.items() if value is not None}
