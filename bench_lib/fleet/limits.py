# SPDX-License-Identifier: BSD-3-Clause
"""How long a boot may take before its host ends it."""

from __future__ import annotations

import dataclasses
import os

from bench_lib.fleet.plan import Plan
from bench_lib.fleet.work import Kind
from bench_lib.lab.trials import BOOTS_AT_MOST, LIBVIRT_STAGING_S, STAGING_S
from bench_lib.record import ManagerName
from bench_lib.settings import Settings
from bench_lib.trial.requests.description import deadline_s

ENDING_S = 60.0
"""The longest that the end of one trial usually takes: the release, a recovery, and the end of all
that it has started."""

FETCH_S = 1800.0
"""The longest that a host may take to fetch the kernel of a lab."""


def limit_s(plan: Plan) -> float:
    """Return a number of seconds that the trials of one boot never take unless they hang."""
    settings = Settings.from_environment({**os.environ, **plan.settings})
    if plan.kind is Kind.LAB:
        settings = dataclasses.replace(settings, staging_s=max(settings.staging_s, STAGING_S))
    total = 0.0
    for case in plan.cases:
        staging_s = case.staging_s(settings)
        if case.manager is ManagerName.LIBVIRT:
            staging_s = max(staging_s, LIBVIRT_STAGING_S)
        then_s = deadline_s(case.then, settings) if case.then else 0.0
        total += staging_s + case.deadline_s(settings) + then_s + ENDING_S
    if plan.kind is Kind.LAB:
        total += BOOTS_AT_MOST * settings.lab_boot_s + FETCH_S
    return total + ENDING_S
