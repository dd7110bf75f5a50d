# SPDX-License-Identifier: BSD-3-Clause
"""Wait until something has changed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Hashable
from contextlib import suppress


class News:
    """Wakes what waits for news of a topic: the name of a host, or the id of a campaign."""

    def __init__(self) -> None:
        self._events: defaultdict[Hashable, asyncio.Event] = defaultdict(asyncio.Event)

    def tell(self, *topics: Hashable) -> None:
        """Wake everything that waits now for one of these topics."""
        for topic in topics:
            if (event := self._events.pop(topic, None)) is not None:
                event.set()

    async def wait(self, topic: Hashable, timeout_s: float) -> None:
        """Wait for news of a topic, but not longer than this."""
        event = self._events[topic]
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()
