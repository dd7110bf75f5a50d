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
from contextlib import suppress
from typing import Any

from dask.typing import Key
from distributed import Client, Future, KilledWorker, Scheduler
from distributed.client import FutureCancelledError

from bench_lib.fleet.background import Background
from bench_lib.fleet.facts import ROOM, resource
from bench_lib.fleet.members import Given, Member
from bench_lib.fleet.news import News
from bench_lib.fleet.performing import END

END_S = 30.0
"""How long a worker may take to answer when it is asked to end something."""

LONG_S = 3600.0
"""How often to look whether a host is still there that answers nothing. Dask reports it anyway."""


class Dropped(Exception):
    """The connection to the host was lost, so what became of its work is not known."""


class Overdue(Exception):
    """The host did not answer in time."""


class Calls:
    """Calls functions on hosts. They take and return text, and have to be importable there."""

    def __init__(
        self, scheduler: Scheduler, client: Client, news: News, background: Background
    ) -> None:
        self._scheduler = scheduler
        self._client = client
        self._news = news
        self._background = background
        self._given: dict[Key, Given] = {}

    def working(self, member: Member) -> list[Given]:
        """Return what a host has been given to do."""
        state = self._scheduler.workers.get(member.address or "")
        if state is None:
            return []
        return [self._given[task.key] for task in state.processing if task.key in self._given]

    async def on(
        self,
        member: Member,
        text: str,
        limit_s: float,
        function: Callable[..., str],
        *given: str,
    ) -> str:
        """Call a function on a host, and return its answer.

        The caller has counted it in `Member.busy`, and this takes it out again when the host has
        ended the work. If this is cancelled or overdue, the host is asked to end it.

        :param text: what the host does then, in words.
        :raise Dropped: the connection was lost before there was an answer.
        :raise Overdue: there was no answer within `limit_s`.
        """
        address = member.address
        key = f"boot-{uuid.uuid4().hex}"
        self._given[key] = Given(text, time.monotonic())
        future = self._client.submit(
            function,
            *given,
            key=key,
            pure=False,
            resources={resource(member.facts.name): 1, ROOM: 1},
        )
        answer = asyncio.create_task(_answer(future))
        try:
            async with asyncio.timeout(limit_s):
                await self._answered_or_gone(member, address, answer)
            if not answer.done():
                raise Dropped
            return await answer
        except TimeoutError:
            raise Overdue(f"it did not answer within {limit_s:.0f} s") from None
        finally:
            if answer.done() or member.address != address:
                answer.cancel()
                await asyncio.gather(answer, return_exceptions=True)
                self._forget(member, address, key, future)
            else:
                self._background.spawn(self._broken_off(member, address, key, future, answer))

    async def _broken_off(
        self,
        member: Member,
        address: str | None,
        key: str,
        future: Future[Any],
        answer: asyncio.Task[str],
    ) -> None:
        """Have a host end what it does, and wait until it has. Dask itself ends nothing."""
        try:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(END_S):
                    await getattr(self._scheduler.rpc(address), END)(key=key)
            await self._answered_or_gone(member, address, answer)
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
            self._forget(member, address, key, future)
            self._news.tell(member.facts.name, None)

    async def _answered_or_gone(
        self, member: Member, address: str | None, answer: asyncio.Task[str]
    ) -> None:
        """Wait until there is an answer, or the host is not connected at this address any more."""
        while not answer.done() and member.address == address:
            gone = asyncio.create_task(self._news.wait(member.facts.name, LONG_S))
            try:
                await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()

    def _forget(self, member: Member, address: str | None, key: str, future: Future[Any]) -> None:
        """Release a result, and the host. Dask would make the result again if its worker died."""
        del self._given[key]
        future.release()
        member.free(address)


async def _answer(future: Future[Any]) -> str:
    """:raise Dropped: the connection was lost before there was an answer."""
    try:
        return str(await future.result())
    except (KilledWorker, FutureCancelledError):
        # The second one means that our own connection to the scheduler was lost.
        raise Dropped from None
