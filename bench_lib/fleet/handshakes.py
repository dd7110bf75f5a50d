# SPDX-License-Identifier: BSD-3-Clause
"""End connections that do not get to the end of their TLS handshake.

Dask waits for them for ever. A stranger could thereby use up the file descriptors of a coordinator
without any certificate: then no host can join, and Dask does nothing but report that.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter
from typing import Any

from distributed.comm.registry import backends
from distributed.comm.tcp import TLSBackend, TLSListener
from tornado.iostream import IOStream

LIMIT_S = 10.0
"""Seconds that a handshake may take."""
SHARE = 4
"""A connection is refused if its address already has this part of all file descriptors in
handshakes. After a restart, hundreds of hosts behind one address may come back at once."""

logger = logging.getLogger("distributed.comm.tcp")
"""The logger to which Dask reports failed handshakes."""


def most() -> int:
    """Return how many connections from one address may be in their handshakes at once."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // SHARE


class _Listener(TLSListener):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
        self._shaking: Counter[str] = Counter()
        self._most = most()

    async def _prepare_stream(self, stream: IOStream, address: str) -> IOStream | None:
        host = address.rpartition(":")[0]
        if self._shaking[host] >= self._most:
            self._end(stream, address, f"It has {self._most} other connections in TLS handshakes.")
            return None
        self._shaking[host] += 1
        try:
            async with asyncio.timeout(LIMIT_S):
                waiting = super()._prepare_stream(stream, address)  # type: ignore[no-untyped-call]
                prepared: IOStream | None = await waiting
                return prepared
        except TimeoutError:
            self._end(stream, address, f"It did not end its TLS handshake within {LIMIT_S:.0f} s.")
            return None
        finally:
            self._shaking[host] -= 1
            if not self._shaking[host]:
                del self._shaking[host]

    def _end(self, stream: IOStream, address: str, why: str) -> None:
        """Close a connection, and report it as Dask does.

        :param why: a sentence.
        """
        stream.close()
        logger.warning(
            "Listener on %r: TLS handshake failed with remote %r: %s",
            self.listen_address,
            address,
            why,
        )


class _Backend(TLSBackend):
    _listener_class = _Listener


def limit() -> None:
    """Limit the handshakes of all connections to schedulers and workers that are made later."""
    backends["tls"] = _Backend()
