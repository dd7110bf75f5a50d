# SPDX-License-Identifier: BSD-3-Clause
"""Takes the place of bench_lib/fleet/limits.py for a coordinator: some boots may take seconds only.

The real limits are so long that a test would have to wait for minutes.
"""

from __future__ import annotations

from pathlib import Path

from bench_lib.fleet.plan import Plan
from bench_lib.settings import CHECKOUT

FILE = Path(__file__)
PLACE = CHECKOUT / "bench_lib" / "fleet" / "limits.py"

SHORT = "short"
"""The name of campaigns whose boots may take seconds only."""

SHORT_S = 3.0


def limit_s(plan: Plan) -> float:
    """Return how many seconds a boot may take."""
    return SHORT_S if plan.name == SHORT else 3600.0
