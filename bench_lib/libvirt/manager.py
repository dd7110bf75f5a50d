# SPDX-License-Identifier: BSD-3-Clause
"""The manager that runs guests with libvirt, one libvirtd per side of a migration."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench_lib import libvirt
from bench_lib.deadline import Deadline, together
from bench_lib.errors import DeadlinePassed, LibvirtFailed, MonitorRefused
from bench_lib.guest.gdbstub import GdbStub
from bench_lib.guest.monitor import Monitor
from bench_lib.guest.qemu import Guest, GuestConfig
from bench_lib.guest.request_line import RequestLine
from bench_lib.guest.serial import SerialLine
from bench_lib.host import identity
from bench_lib.libvirt import calls, daemon, domain
from bench_lib.libvirt.calls import Client
from bench_lib.libvirt.daemon import Daemon
from bench_lib.migration import PORT, Endpoint, Migration, Phase
from bench_lib.migration.postcopy import POSTCOPY_BANDWIDTH, precopy_bandwidth
from bench_lib.ownership import Run
from bench_lib.record import Shape

T = TypeVar("T")

_log = logging.getLogger(__name__)

# enum virDomainMigrateFlags of libvirt-domain.h.
LIVE, PEER2PEER, POSTCOPY, POSTCOPY_RESUME = 1 << 0, 1 << 1, 1 << 15, 1 << 19

FLAGS = LIVE | PEER2PEER | POSTCOPY
"""The flags of a migration. In a peer-to-peer migration, the source's libvirtd calls the other one.
OpenStack, oVirt and KubeVirt migrate in this way."""

POSTCOPY_FAILED = ([1, 11], [3, 13])
"""States of a domain with their reasons: running and VIR_DOMAIN_RUNNING_POSTCOPY_FAILED, paused and
VIR_DOMAIN_PAUSED_POSTCOPY_FAILED."""

CONTINUES_S = 1.0
"""How many seconds a migration may take to continue after libvirt reported an error. It takes some
milliseconds."""

LOOK_S = 0.01
"""Seconds between two queries of a state."""

QEMU_LOGS = Path("/var/log/libvirt/qemu")
"""Where libvirtd keeps what QEMU prints."""


class LibvirtGuest(Guest):
    """A guest that libvirt runs.

    :ivar daemon: the libvirtd that runs it.
    :ivar domain: the name of its domain.
    """

    daemon: Daemon
    domain: str


@dataclass(frozen=True)
class LibvirtMigration(Migration):
    """A migration that libvirt carries out.

    libvirt starts the destination's QEMU only when it starts to migrate. So the migration has
    started before the guest is up, and the source sends almost nothing until `start`.

    :ivar run: the run that clients belong to.
    :ivar shape: the shape of the guest.
    :ivar caller: the client whose call migrates the guest; it returns when the migration ends.
    :ivar operator: the client for other calls to the source's libvirtd.
    :ivar stack: the exit stack that ends clients that are started later.
    """

    run: Run = field(kw_only=True)
    shape: Shape = field(kw_only=True)
    caller: Client = field(kw_only=True)
    operator: Client = field(kw_only=True)
    stack: AsyncExitStack = field(kw_only=True)

    @property
    def ends_source(self) -> bool:
        return True

    async def _start(self, address: str, deadline: Deadline) -> None:
        await self.source.guest.control.execute(
            "migrate-set-parameters",
            {"max-bandwidth": precopy_bandwidth(self.shape, len(os.sched_getaffinity(0)))},
            deadline=deadline,
        )

    async def _start_postcopy(self, deadline: Deadline) -> None:
        guest = _guest(self.source)
        await self.operator.call("migrateStartPostCopy", 0, domain=guest.domain, deadline=deadline)

    async def completes(self, deadline: Deadline) -> int:
        await self.destination.reaches(Phase.COMPLETED, deadline)
        # libvirt ends the source's QEMU at once, perhaps before QEMU has reported its completion.
        return self.destination.phase_ns

    async def resume(self, address: str, attempt: int, deadline: Deadline) -> None:
        source, destination = map(_guest, self.sides)
        # libvirt refuses to resume before its call for the broken migration has returned.
        # A libvirtd that `virt-reboot-daemon` has ended has closed the connection instead.
        with suppress(LibvirtFailed):
            await self.caller.answer(deadline)
        clients = []
        for guest in (source, destination):
            name = f"{guest.name}-resume-{attempt}"
            client = await self.stack.enter_async_context(
                calls.connected(self.run, name, guest.daemon)
            )
            await client.opened(deadline)
            await _is_broken(client, guest, deadline)
            clients.append(client)
        resuming = clients[0]
        resuming.send(
            "migrateToURI3",
            destination.daemon.uri,
            {"migrate_uri": f"tcp:{address}:{PORT + attempt}"},
            FLAGS | POSTCOPY_RESUME,
            domain=source.domain,
        )
        try:
            await resuming.unless_refused(self.source.continues(deadline))
        except LibvirtFailed as error:
            # libvirt 11.2 and 11.3 crash here. There is no libvirtd for a second attempt then.
            await destination.daemon.check_lives()
            await self._continues_nevertheless(error)

    async def _continues_nevertheless(self, error: LibvirtFailed) -> None:
        """Check whether the migration continues although libvirt has reported an error.

        libvirt 9.0 reports "job 'migration in' failed in post-copy phase" for one in about forty
        migrations that it has resumed, and that complete.

        :param error: the error that libvirt reported.
        :raise MonitorRefused: the migration does not continue.
        """
        try:
            await self.source.continues(Deadline.after(CONTINUES_S))
        except DeadlinePassed:
            raise MonitorRefused(str(error)) from None
        _log.info("The migration continues, but: %s", error)


async def _is_broken(client: Client, guest: LibvirtGuest, deadline: Deadline) -> None:
    """Wait until a libvirtd has noticed that the migration is broken.

    :raise DeadlinePassed: libvirtd has not noticed in time.
    """
    while True:
        answer = await client.call("state", domain=guest.domain, deadline=deadline)
        if answer.result in POSTCOPY_FAILED:
            return
        await asyncio.sleep(LOOK_S)


class LibvirtManager:
    """libvirt, controlled by the calls that operators use."""

    def __init__(self, run: Run, cache: Path) -> None:
        """Prepare a manager.

        :param run: the run that the guests belong to.
        :param cache: the cache of kickbench.
        """
        self._run = run
        kernel = identity.booted()
        # libvirtd probes each QEMU once per kernel. It discards what it found under another kernel.
        build = hashlib.sha256(f"{kernel.release} {kernel.version}".encode()).hexdigest()[:12]
        self._cache = cache / libvirt.CACHE / f"{kernel.release}_{build}"

    async def start(self, config: GuestConfig, deadline: Deadline, stack: AsyncExitStack) -> Guest:
        """See `migration.Manager`."""
        made = self._daemon(config, stack)
        client = await self._client(f"{config.name}-client", made, deadline, stack)
        made_of = domain.xml(config, config.name, gdbstub=config.gdbstub)
        await client.call("createXML", made_of, 0, deadline=deadline)
        guest = await self._adopted(config, config.name, made, deadline, stack)
        guest.manager_version = await client.version(deadline)
        return guest

    async def start_pair(
        self,
        source: GuestConfig,
        destination: GuestConfig,
        address: str,
        deadline: Deadline,
        stack: AsyncExitStack,
    ) -> Migration:
        """See `migration.Manager`."""
        daemons = [self._daemon(each, stack) for each in (source, destination)]
        caller, operator = await together(
            self._client(f"{source.name}-caller", daemons[0], deadline, stack),
            self._client(f"{source.name}-operator", daemons[0], deadline, stack),
        )
        await daemons[1].up(deadline)
        # libvirt defines the destination's domain by the name and the XML of the source's.
        name = destination.name
        made_of = domain.xml(source, name, gdbstub=destination.gdbstub)
        await operator.call("createXML", made_of, 0, deadline=deadline)
        origin = await self._adopted(source, name, daemons[0], deadline, stack)
        source_end = Endpoint(origin)
        _follow(source_end, stack)
        await origin.control.execute(
            "migrate-set-parameters",
            {"max-postcopy-bandwidth": POSTCOPY_BANDWIDTH, "downtime-limit": 1},
            deadline=deadline,
        )
        caller.send(
            "migrateToURI3",
            daemons[1].uri,
            {"migrate_uri": f"tcp:{address}:{PORT}", "bandwidth": 1},
            FLAGS,
            domain=name,
        )

        async def arrived() -> LibvirtGuest:
            return await origin.during(
                self._adopted(destination, name, daemons[1], deadline, stack)
            )

        target = await caller.unless_refused(arrived())
        # Both sides run the same libvirtd.
        target.manager_version = await operator.version(deadline)
        migration = LibvirtMigration(
            source_end,
            Endpoint(target),
            run=self._run,
            shape=source.shape,
            caller=caller,
            operator=operator,
            stack=stack,
        )
        _follow(migration.destination, stack)

        async def waiting() -> None:
            await source_end.begins(deadline)
            # libvirt accepts no bandwidth below 1 MiB/s.
            await origin.control.execute(
                "migrate-set-parameters",
                {"max-bandwidth": POSTCOPY_BANDWIDTH},
                deadline=deadline,
            )

        await caller.unless_refused(migration.during(waiting()))
        return migration

    def _daemon(self, config: GuestConfig, stack: AsyncExitStack) -> Daemon:
        name = f"{config.name}-libvirtd"
        return stack.enter_context(daemon.started(self._run, name, config.netns_fd, self._cache))

    async def _client(
        self, name: str, made: Daemon, deadline: Deadline, stack: AsyncExitStack
    ) -> Client:
        await made.up(deadline)
        client = await stack.enter_async_context(calls.connected(self._run, name, made))
        await client.opened(deadline)
        return client

    async def _adopted(
        self,
        config: GuestConfig,
        name: str,
        made: Daemon,
        deadline: Deadline,
        stack: AsyncExitStack,
    ) -> LibvirtGuest:
        """Connect to a guest that libvirt has started, and take care that its QEMU is ended."""
        control_end = await made.connected(domain.socket_path(domain.CONTROL), deadline)
        child = made.qemu(control_end)
        stack.callback(child.end)
        marks_end = await made.connected(domain.socket_path(domain.MARKS), deadline)
        text_end = await made.connected(domain.socket_path(domain.TEXT), deadline)
        requests_end = await made.connected(domain.socket_path(domain.REQUESTS), deadline)
        stack.callback(requests_end.close)
        gdbstub = None
        if config.gdbstub:
            gdbstub_end = await made.connected(domain.socket_path(domain.GDBSTUB), deadline)
            stack.callback(gdbstub_end.close)
            gdbstub = GdbStub(config.name, gdbstub_end)
        line = await SerialLine.open(marks_end, text_end)
        stack.callback(line.close)
        control = Monitor(f"{config.name}/control")
        requests = RequestLine(f"{config.name}/requests", requests_end)
        log = made.path(QEMU_LOGS / f"{name}.log")
        guest = LibvirtGuest(config, child, log, control, requests, line, gdbstub, None)
        guest.daemon, guest.domain = made, name
        stack.push_async_callback(control.disconnect)

        async def connect() -> None:
            await together(control.connect(control_end, deadline), requests.connect(deadline))

        await guest.during(connect())
        if gdbstub is not None and not config.incoming:
            # QEMU stops a running guest when a debugger connects, and sends a stop reply.
            if await gdbstub.stopped(deadline) is None:
                raise DeadlinePassed(f"The gdbstub of {config.name} did not report in time.")
            gdbstub.resume()
        return guest


def _guest(side: Endpoint) -> LibvirtGuest:
    assert isinstance(side.guest, LibvirtGuest)
    return side.guest


def _follow(side: Endpoint, stack: AsyncExitStack) -> None:
    stack.callback(asyncio.create_task(side.follow()).cancel)
