# SPDX-License-Identifier: BSD-3-Clause
"""Child processes: each dies with its parent, can be waited for, and is ended by pidfd."""

from bench_lib.process.child import ATTENTIVE_S, DEATH_LIMIT_S, Child, Ended, survivors
from bench_lib.process.namespace import CLONE_NEWNET, in_network_namespace
from bench_lib.process.start import START, STARTS, started
from bench_lib.process.state import Survivor, ended, lives, name_of, survivor
from bench_lib.process.tool import run_tool, run_tools

__all__ = [
    "ATTENTIVE_S",
    "CLONE_NEWNET",
    "DEATH_LIMIT_S",
    "START",
    "STARTS",
    "Child",
    "Ended",
    "Survivor",
    "ended",
    "in_network_namespace",
    "lives",
    "name_of",
    "run_tool",
    "run_tools",
    "started",
    "survivor",
    "survivors",
]
