# SPDX-License-Identifier: BSD-3-Clause
"""The coordinator: one process with Dask's scheduler, which hosts and users connect to."""

from __future__ import annotations

import asyncio
import importlib.util
import resource
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
from distributed import Client, Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.security import Security

import bench_lib
from bench_lib import record
from bench_lib.errors import FleetError, FleetRefused, KickbenchError
from bench_lib.fleet import configuration, security
from bench_lib.fleet.background import Background
from bench_lib.fleet.bundle import Role
from bench_lib.fleet.calls import Calls
from bench_lib.fleet.engine import Engine
from bench_lib.fleet.facts import EXTRA, HostFacts
from bench_lib.fleet.journal import Journal
from bench_lib.fleet.news import News
from bench_lib.fleet.performing import REFUSE
from bench_lib.fleet.plan import Plan
from bench_lib.fleet.refusals import Refusals
from bench_lib.fleet.roster import Roster
from bench_lib.fleet.status import CampaignStatus, FleetStatus, HostStatus
from bench_lib.record import Kernel
from bench_lib.settings import Settings

DASHBOARD = "127.0.0.1:8787"
"""Where Dask's dashboard listens. It has no encryption, and does not ask who looks at it."""

FOLDER = "fleet"
"""The name of the journal's folder, which is beside the record file."""

STARTING_S = 600
"""The longest that the coordinator may take to connect to its own scheduler. After a crash, the
connections of all hosts come before; those of 200 hosts took more than 20 s on a busy machine."""

PREFIX = "kickbench_"
"""The prefix of the names of the coordinator's own handlers, beside those of Dask."""

ANSWER_S = 10.0
"""How long a worker may take to answer."""


def has_dashboard() -> bool:
    """Whether Dask can show its dashboard, for which it needs bokeh."""
    return importlib.util.find_spec("bokeh") is not None


class Coordinator:
    """Answers users, and passes on which workers come and go."""

    def __init__(
        self,
        scheduler: Scheduler,
        roster: Roster,
        engine: Engine,
        settings: Settings,
        refusals: Refusals,
        background: Background,
    ) -> None:
        self._scheduler = scheduler
        self._roster = roster
        self._engine = engine
        self._records = settings.records
        # A certificate that replaces this one is used after a restart.
        self._expiry = security.expiry(settings.certificates)
        self._refusals = refusals
        self._background = background
        self._started = datetime.now(UTC).isoformat(timespec="seconds")

    async def status(self) -> FleetStatus:
        """Return what is known of the fleet."""
        # Without bokeh, Dask starts the server all the same, but it has no pages.
        port = self._scheduler.http_server.port if has_dashboard() else None  # type: ignore[attr-defined]
        return FleetStatus(
            address=str(self._scheduler.address),
            kickbench=bench_lib.__version__,
            started=self._started,
            records=str(self._records),
            dashboard=f"http://127.0.0.1:{port}/status" if port else None,
            hosts=tuple(self._with_certificate(each) for each in self._roster.statuses()),
            campaigns=self._engine.statuses(),
            refused=self._refusals.all(),
            notes=tuple(filter(None, [self._expiry.warning()])),
        )

    def _with_certificate(self, host: HostStatus) -> HostStatus:
        """Add to the notes of a host that its certificate expires soon."""
        stream = self._scheduler.stream_comms.get(self._roster.address_of(host.facts) or "")
        connection: Any = stream.comm if stream is not None else None
        if connection is None or connection.closed():
            return host
        certificate = connection.stream.socket.getpeercert(binary_form=True)
        warning = security.expiry_of_peer(certificate).warning()
        return replace(host, notes=(*host.notes, warning)) if warning else host

    async def submit(self, plan: str) -> CampaignStatus:
        """Begin a campaign; see `Engine.submit`."""
        return await self._engine.submit(msgspec.json.decode(plan, type=Plan))

    async def drain(self, host: str, undo: bool) -> None:
        """Take a host out of use; see `Roster.drain`."""
        self._roster.drain(host, undo=undo)

    async def records(self, kernels: str) -> list[str]:
        """Return the records of some kernels, as lines."""
        wanted = set(msgspec.json.decode(kernels, type=list[Kernel]))
        return await asyncio.to_thread(record.lines_of, self._records, wanted)

    def answer_users(self) -> None:
        """Make the scheduler pass on what users ask for."""
        handlers: dict[str, Callable[..., Awaitable[object]]] = {
            "status": self.status,
            "submit": self.submit,
            "follow": self._engine.follow,
            "cancel": self._engine.cancel,
            "drain": self.drain,
            "records": self.records,
        }
        for name, handler in handlers.items():
            self._scheduler.handlers[f"{PREFIX}{name}"] = _answering(handler)

    def worker_joined(self, address: str) -> None:
        """Take in a worker, or refuse it."""
        try:
            text = self._scheduler.workers[address].extra[EXTRA]
            facts = msgspec.json.decode(text, type=HostFacts)
        except (KeyError, TypeError, msgspec.MsgspecError):
            self._refuse(
                address, "It is not a host of this version of kickbench; install the same on both."
            )
            return
        before = self._roster.address_of(facts)
        if before is None:
            self._take_in(address, facts)
        else:
            self._background.spawn(self._contend(before, address, facts))

    async def _contend(self, before: str, address: str, facts: HostFacts) -> None:
        """Decide between two workers that say that they are the same machine.

        The first one may be dead, and Dask has not noticed yet. If it lives, they are clones, or
        two processes of one machine, and would throw each other out for ever.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._scheduler.rpc(before).identity()
        except (OSError, TimeoutError):
            self._close(before)
            if address in self._scheduler.workers:
                self._take_in(address, facts)
        else:
            self._refuse(
                address,
                f"{facts.name} has joined already, with the same machine id; end one of the two "
                "workers, or run systemd-machine-id-setup on a clone after removing its "
                "/etc/machine-id.",
            )

    def _take_in(self, address: str, facts: HostFacts) -> None:
        recorded = self._engine.has_records_of(facts.name)
        unfit = self._engine.changed(facts)
        refused = self._roster.joined(facts, address, unfit, recorded=recorded)
        if refused:
            self._refuse(address, refused)

    def worker_left(self, address: str) -> None:
        """Take down that the connection to a worker was lost."""
        self._roster.left(address)

    def _refuse(self, address: str, reason: str) -> None:
        """Remember why a worker is refused, tell it, and close the connection."""
        self._refusals.add(address, reason)
        self._background.spawn(self._tell_and_close(address, reason))

    async def _tell_and_close(self, address: str, reason: str) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                await getattr(self._scheduler.rpc(address), REFUSE)(reason=reason)
        await self._scheduler.remove_worker(address, stimulus_id="kickbench", close=True)

    def _close(self, address: str) -> None:
        closing = self._scheduler.remove_worker(address, stimulus_id="kickbench", close=True)
        self._background.spawn(closing)


class _Plugin(SchedulerPlugin):
    """Passes on which workers come and go."""

    name = "kickbench"

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self._coordinator.worker_joined(worker)

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        self._coordinator.worker_left(worker)


async def serve(settings: Settings, host: str, port: int, on_event: Callable[[str], None]) -> None:
    """Be the coordinator until a signal ends this.

    :param host: the address to listen on; "" for all.
    :param on_event: called with a sentence for the operator's log.
    :raise CertificateUnusable: there is no usable certificate.
    :raise FleetRefused: another coordinator uses the same history, or the address is taken.
    :raise FleetError: the journal cannot be used.
    :raise StoreError: the record file cannot be read.
    """
    secure = security.load(settings.certificates, role=Role.COORDINATOR)
    dashboard = has_dashboard()
    configuration.for_coordinator(dashboard=dashboard)
    _raise_limit_of_files()
    journal = Journal(settings.records.parent / FOLDER)
    with journal.held(), Refusals().collected() as refusals:
        # A long history takes seconds to read. No host should join meanwhile.
        records, _ = record.read(settings.records)
        scheduler = await _listening(host, port, secure, dashboard=dashboard)
        async with (
            scheduler,
            Client(
                scheduler.address, asynchronous=True, security=secure, timeout=STARTING_S
            ) as client,
        ):
            news = News()
            background = Background(on_event)
            calls = Calls(scheduler, client, news, background)
            roster = Roster(calls, journal, news, background, on_event)
            engine = Engine(calls, roster, journal, news, background, settings, records, on_event)
            del records
            coordinator = Coordinator(scheduler, roster, engine, settings, refusals, background)
            coordinator.answer_users()
            scheduler.add_plugin(_Plugin(coordinator))
            # After a crash hosts join again at once, and some have done so before the plugin.
            for worker in [*scheduler.workers]:
                coordinator.worker_joined(worker)
            on_event(f"listening on {scheduler.address}; records go to {settings.records}")
            engine.start()
            try:
                await asyncio.Event().wait()
            finally:
                await background.stop()


async def _listening(host: str, port: int, secure: Security, *, dashboard: bool) -> Scheduler:
    """Return a scheduler that listens.

    :raise FleetRefused: it cannot listen there.
    """
    scheduler = Scheduler(
        host=host,
        port=port,
        protocol="tls",
        security=secure,
        dashboard=dashboard,
        dashboard_address=DASHBOARD if dashboard else configuration.HTTP_ADDRESS,
    )
    try:
        await scheduler
    except RuntimeError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError):
            raise
        raise FleetRefused(
            f"{host}:{port} cannot be listened on ({cause.strerror}); give another address with "
            "--listen, or end what listens there."
        ) from None
    return scheduler


def _raise_limit_of_files() -> None:
    """Let this process have as many connections as the administrator allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _answering(handler: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[str]]:
    """Return a handler that answers in JSON: {"value": ...} or {"error": [class, sentence]}."""

    async def answer(version: str, **arguments: Any) -> str:
        try:
            if version != bench_lib.__version__:
                raise FleetRefused(
                    f"The coordinator runs kickbench {bench_lib.__version__}, and this is "
                    f"{version}; install the same version on both."
                )
            value = await handler(**arguments)
            return msgspec.json.encode({"value": value}).decode()
        except KickbenchError as error:
            name, sentence = type(error).__name__, str(error)
        except (msgspec.MsgspecError, TypeError) as error:
            name = FleetError.__name__
            sentence = f"The coordinator does not understand the request ({error})."
        return msgspec.json.encode({"error": [name, sentence]}).decode()

    return answer
