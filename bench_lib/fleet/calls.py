# SPDX-License-Identifier: BSD-3-Clause
"""Call functions on hosts, by Dask.

A host is chosen by a resource of its own, and not by its address: Dask runs work that is bound to
an address never again once that worker is dead. Results are released as soon as they are here,
because Dask would make them again if their worker died.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

from dask.typing import Key
from distributed import Client, Future, KilledWorker, Scheduler

from bench_lib.fleet.members import Given, Member
from bench_lib.fleet.news import News

ROOM = "room"
"""The resource that a host has as often as it makes boots at once."""

LONG_S = 3600.0
"""How often to look whether a host is still there that answers nothing. Dask reports it anyway."""


class Dropped(Exception):
    """The connection to the host was lost, so what became of its work is not known."""


def resource(name: str) -> str:
    """Return the resource that only the host of this name has."""
    return f"host-{name}"


class Calls:
    """Calls functions on hosts. They take and return text, and have to be importable there."""

    def __init__(self, scheduler: Scheduler, client: Client, news: News) -> None:
        self._scheduler = scheduler
        self._client = client
        self._news = news
        self._given: dict[Key, Given] = {}

    def working(self, member: Member) -> list[Given]:
        """Return what a host has been given to do."""
        state = self._scheduler.workers.get(member.address or "")
        if state is None:
            return []
        return [self._given[task.key] for task in state.processing if task.key in self._given]

    async def on(self, member: Member, text: str, function: Callable[..., str], *given: str) -> str:
        """Call a function on a host, and return its answer.

        :param text: what the host does then, in words.
        :raise Dropped: the connection was lost before there was an answer.
        """
        name, address = member.facts.name, member.address
        key, future = self._submit(text, function, given, {resource(name): 1, ROOM: 1})
        answer = asyncio.ensure_future(_answer(future))
        try:
            while not answer.done():
                if member.address != address:
                    raise Dropped
                gone = asyncio.create_task(self._news.wait(name, LONG_S))
                await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
            return await answer
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
            self._forget(key, future)

    async def anywhere(
        self, text: str, function: Callable[..., str], *given: str
    ) -> tuple[str, str]:
        """Call a function on any host that has room; return the host's address, and the answer.

        :raise Dropped: the connection was lost before there was an answer.
        """
        key, future = self._submit(text, function, given, {ROOM: 1})
        try:
            answer = await _answer(future)
            addresses = [each.address for each in self._scheduler.tasks[key].who_has or ()]
        finally:
            self._forget(key, future)
        if not addresses:
            raise Dropped
        return addresses[0], answer

    def _submit(
        self, text: str, function: Callable[..., str], given: tuple[str, ...], needs: dict[str, int]
    ) -> tuple[str, Future[Any]]:
        key = f"boot-{uuid.uuid4().hex}"
        self._given[key] = Given(text, time.monotonic())
        future = self._client.submit(function, *given, key=key, pure=False, resources=needs)
        return key, future

    def _forget(self, key: str, future: Future[Any]) -> None:
        del self._given[key]
        future.release()


async def _answer(future: Future[Any]) -> str:
    """:raise Dropped: the connection was lost before there was an answer."""
    try:
        return str(await future.result())
    except KilledWorker:
        raise Dropped from None
