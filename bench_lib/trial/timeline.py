# SPDX-License-Identifier: BSD-3-Clause
"""The stages of a trial and how long each took."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench_lib.record import Stage

_log = logging.getLogger(__name__)

STAGES = (
    "start",
    "guest-up",
    "prepare",
    "postcopy",
    "outage",
    "proof",
    "request",
    "evidence",
    "recovery",
    "release",
)
"""Every stage that a trial may have, in order.

- start: make namespaces and veth, and start QEMU, up to its greeting.
- guest-up: wait until the guest has marked its first serial port.
- prepare: start what the request needs, such as a debugger.
- postcopy: migrate, until the guest runs at the destination.
- outage: make the outage and prove it.
- proof: wait until every vCPU was seen to do what the scenario is about.
- request: from just before the request until its answer or its deadline.
- evidence: look at the threads for the second time.
- recovery: recover the guest, until it has checked its memory; only with recovery.
- release: end everything that the trial started.
"""


class Timeline:
    """Collects the stages of a trial. Their times count from the creation of the timeline."""

    def __init__(self) -> None:
        self._start_ns = time.monotonic_ns()
        self._stages: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage. A stage that raises is recorded too, to show where a trial was lost."""
        assert name in STAGES
        _log.debug("stage %s starts", name)
        start_ns = time.monotonic_ns() - self._start_ns
        try:
            yield
        finally:
            end_ns = time.monotonic_ns() - self._start_ns
            self._stages.append(Stage(name, start_ns, end_ns))
            _log.debug("stage %s took %d ns", name, end_ns - start_ns)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(self._stages)
