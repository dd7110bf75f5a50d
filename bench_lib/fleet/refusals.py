# SPDX-License-Identifier: BSD-3-Clause
"""The connections that the coordinator refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from bench_lib.fleet.status import Refusal

MOST = 100
"""How many refusals are remembered; then the oldest are forgotten."""


class Refusals(logging.Handler):
    """Remembers refusals, among them the failed TLS handshakes that Dask logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._found: dict[tuple[str, str], Refusal] = {}

    @contextmanager
    def collected(self) -> Iterator[Refusals]:
        """Take down what Dask logs meanwhile."""
        logger = logging.getLogger("distributed.comm.tcp")
        logger.addHandler(self)
        try:
            yield self
        finally:
            logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take down a failed handshake. Its parts are the arguments of the message."""
        if isinstance(record.args, tuple) and len(record.args) == 3 and "TLS" in str(record.msg):
            _, address, reason = record.args
            self.add(str(address), str(reason))

    def add(self, address: str, reason: str) -> None:
        """Take down that a connection was refused.

        :param address: where it came from, with its port, which is left out.
        """
        key = address.removeprefix("tls://").rpartition(":")[0], reason
        before = self._found.pop(key, None)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._found[key] = Refusal(*key, (before.times if before else 0) + 1, now)
        while len(self._found) > MOST:
            del self._found[next(iter(self._found))]

    def all(self) -> tuple[Refusal, ...]:
        """Return what was refused, the latest last."""
        return tuple(self._found.values())
