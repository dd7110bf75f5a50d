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

start: namespaces, veth, QEMU up to its greeting. guest-up: until the guest has marked its serial
line. prepare: until what the request needs is there, as a debugger. postcopy: until the guest runs
at the destination. outage: until the failure is in place and proved. proof: until every vCPU was
seen stuck. request: from before the request to its answer or deadline. evidence: the second look
at the threads. recovery: until the guest has checked its memory, where that was asked for.
release: until nothing is left.
"""


class Timeline:
    """Collects stages, in nanoseconds since it was made."""

    def __init__(self) -> None:
        self._begin_ns = time.monotonic_ns()
        self._stages: list[Stage] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage. A stage that raises is recorded too: it says where a trial was lost."""
        assert name in STAGES
        _log.debug("stage %s begins", name)
        start_ns = time.monotonic_ns() - self._begin_ns
        try:
            yield
        finally:
            end_ns = time.monotonic_ns() - self._begin_ns
            self._stages.append(Stage(name, start_ns, end_ns))
            _log.debug("stage %s took %d ns", name, end_ns - start_ns)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(self._stages)
