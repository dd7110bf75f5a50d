# SPDX-License-Identifier: BSD-3-Clause
"""Whether libvirt can run guests here, which is optional."""

from __future__ import annotations

import re

from bench_lib.doctor.finding import Finding, Status
from bench_lib.errors import LibvirtMissing, ToolFailed
from bench_lib.host import needs
from bench_lib.host.need import Need
from bench_lib.settings import Settings

CRASHES = re.compile(r"\b11\.[23]\.")
"""Versions whose libvirtd dereferences a null pointer at the destination when a broken postcopy
migration is resumed; libvirt 11.4 has the fix."""


def finding(settings: Settings) -> Finding:
    """Whether trials with --manager libvirt can run."""
    try:
        found = needs.check(Need.LIBVIRT, settings)
    except (LibvirtMissing, ToolFailed) as error:
        return Finding(
            Need.LIBVIRT, Status.FINE, f"{error} Only trials with --manager libvirt need it."
        )
    if CRASHES.search(found):
        return Finding(
            Need.LIBVIRT,
            Status.DEGRADED,
            f"{found}, which crashes when it resumes a broken postcopy migration",
            "no guest of libvirt can be recovered; libvirt 11.4 has the fix",
        )
    return Finding(Need.LIBVIRT, Status.FINE, found)
