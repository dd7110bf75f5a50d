# SPDX-License-Identifier: BSD-3-Clause
"""Requests that are calls to libvirt."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from bench_lib.deadline import Deadline
from bench_lib.errors import LibvirtFailed
from bench_lib.libvirt import calls
from bench_lib.libvirt.calls import Client
from bench_lib.libvirt.client import Answer
from bench_lib.libvirt.manager import LibvirtGuest
from bench_lib.trial.requests.request import Reply, Request
from bench_lib.trial.scene import MigrationScene, Scene

RECONNECTED_S = 10.0
"""How many seconds a client may take to connect to a libvirtd that was started again."""

# Values of libvirt-domain.h.
VIR_DOMAIN_DESTROY_GRACEFUL = 1
VIR_DOMAIN_ABORT_JOB_POSTCOPY = 1


class VirtCall(Request):
    """A call to libvirt. Its answer is that the call returns.

    :cvar method: the name of the method of libvirt-python's virDomain.
    :cvar arguments: the arguments of the call.
    :ivar asked: the guest that the call is about.
    """

    method: ClassVar[str]
    arguments: ClassVar[tuple[Any, ...]] = ()

    _client: Client
    _stack: AsyncExitStack

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        assert isinstance(scene.guest, LibvirtGuest)
        self.asked: LibvirtGuest = scene.guest

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._client = await self._connected("request", deadline, stack)

    async def _connected(self, name: str, deadline: Deadline, stack: AsyncExitStack) -> Client:
        """Start a client of the libvirtd that is called, and wait until it is connected."""
        made = calls.connected(self.scene.run, f"{self.asked.name}-{name}", self.asked.daemon)
        async with AsyncExitStack() as attempt:
            client = await attempt.enter_async_context(made)
            await client.opened(deadline)
            stack.push_async_callback(attempt.pop_all().aclose)
        return client

    async def send(self) -> None:
        if self._client.outdated:  # the request before this one was `VirtRebootDaemon`
            deadline = Deadline.after(RECONNECTED_S)
            self._client = await self._connected("reconnected", deadline, self._stack)
        self._client.send(self.method, *self.arguments, domain=self.asked.domain)

    async def answer(self, deadline: Deadline) -> Reply | None:
        answer = await self._client.answer(deadline)
        return None if answer is None else self._reply(answer)

    def _reply(self, answer: Answer) -> Reply:
        return Reply(answer.sent_ns, answer.answered_ns, answer.error)


class VirtSuspend(VirtCall):
    """virDomainSuspend. libvirt sends `stop` to QEMU."""

    method = "suspend"

    async def undo(self, deadline: Deadline) -> None:
        await self._client.call("resume", domain=self.asked.domain, deadline=deadline)


class VirtDomstate(VirtCall):
    """virDomainGetState. libvirtd answers without QEMU."""

    method = "state"


class VirtAbort(VirtCall):
    """virDomainAbortJobFlags at the source. libvirt sends `migrate-pause` to QEMU."""

    method = "abortJobFlags"
    arguments = (VIR_DOMAIN_ABORT_JOB_POSTCOPY,)

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        if isinstance(scene, MigrationScene):
            assert isinstance(scene.source, LibvirtGuest)
            self.asked = scene.source


class VirtDestroy(VirtCall):
    """virDomainDestroy.

    libvirt sends SIGTERM, checks every 0.2 s whether QEMU is still there, sends SIGKILL after 10 s,
    and gives up after 40 s. So the call returns in steps of 0.2 s. The reply also has the time of
    QEMU's death.
    """

    method = "destroy"

    _ending: asyncio.Task[int]

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        await super().prepare(deadline, stack)
        self._ending = asyncio.create_task(self._end())
        stack.callback(self._ending.cancel)

    async def _end(self) -> int:
        await self.guest.child.exited()
        return time.monotonic_ns()

    def _reply(self, answer: Answer) -> Reply:
        ended_ns = self._ending.result() if self._ending.done() else None
        return Reply(answer.sent_ns, answer.answered_ns, answer.error, ended_ns=ended_ns)


class VirtDestroyGraceful(VirtDestroy):
    """virDomainDestroyFlags with VIR_DOMAIN_DESTROY_GRACEFUL."""

    method = "destroyFlags"
    arguments = (VIR_DOMAIN_DESTROY_GRACEFUL,)


class VirtRebootDaemon(VirtCall):
    """A restart of libvirtd. The new libvirtd reconnects to the guest's QEMU."""

    method = "state"

    _sent_ns = 0
    _asking: asyncio.Task[Reply] | None = None

    async def prepare(self, deadline: Deadline, stack: AsyncExitStack) -> None:
        await super().prepare(deadline, stack)
        stack.callback(self._stop_asking)

    def _stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    async def send(self) -> None:
        self._sent_ns = time.monotonic_ns()
        self.asked.daemon.signal(signal.SIGTERM)
        self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> Reply:
        forever = Deadline.after(1e6)
        await self.asked.daemon.restarted(forever)
        while True:
            try:
                client = await self._connected("restarted", forever, self._stack)
            except LibvirtFailed:  # libvirtd does not accept clients yet
                await self.asked.daemon.check_lives(0)
                await asyncio.sleep(0.01)
                continue
            client.send(self.method, domain=self.asked.domain)
            answer = await client.answer(forever)
            assert answer is not None
            return Reply(self._sent_ns, answer.answered_ns, answer.error)

    async def answer(self, deadline: Deadline) -> Reply | None:
        assert self._asking is not None
        await asyncio.wait({self._asking}, timeout=deadline.remaining_s)
        return self._asking.result() if self._asking.done() else None
