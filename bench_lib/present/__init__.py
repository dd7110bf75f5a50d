# SPDX-License-Identifier: BSD-3-Clause
"""What the commands print for people: lines, tables and progress bars."""

from bench_lib.present.bars import download, progress
from bench_lib.present.builds import KernelRow, kernels
from bench_lib.present.fleet import (
    ShowCampaign,
    ShowFleet,
    campaign_line,
    campaign_live,
    fleet_live,
    fleet_status,
)
from bench_lib.present.host import doctor_finding, probe_heading, probe_row
from bench_lib.present.trials import matrix, outcomes, recoveries, report, trial_line
from bench_lib.present.verdicts import gate
from bench_lib.present.words import WIDE, count, duration, size, span, stdout, wait

__all__ = [
    "WIDE",
    "KernelRow",
    "ShowCampaign",
    "ShowFleet",
    "campaign_line",
    "campaign_live",
    "count",
    "doctor_finding",
    "download",
    "duration",
    "fleet_live",
    "fleet_status",
    "gate",
    "kernels",
    "matrix",
    "outcomes",
    "probe_heading",
    "probe_row",
    "progress",
    "recoveries",
    "report",
    "size",
    "span",
    "stdout",
    "trial_line",
    "wait",
]
