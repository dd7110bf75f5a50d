# SPDX-License-Identifier: BSD-3-Clause
"""A host of a fleet: a Dask worker, which joins its coordinator again whenever it loses it."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import msgspec
from distributed import Worker

from bench_lib import lock, ownership
from bench_lib.errors import FleetError, FleetRefused, FleetUnreachable, HostBusy
from bench_lib.fleet import configuration, joining, reach, security
from bench_lib.fleet.bundle import Role
from bench_lib.fleet.facts import EXTRA, ROOM, HostFacts, resource
from bench_lib.fleet.performing import Offer, ThisHost
from bench_lib.settings import Settings

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
"""Seconds between two attempts to join. Each wait is twice as long as the one before."""

JOIN_LIMIT_S = 60.0
"""Seconds that joining may take once the coordinator has been reached."""

SOON_S = 5.0
"""If a connection is lost within so many seconds, and before the host was asked to do anything, the
coordinator has refused the host: it knows only then what joins."""

FOLDER = "fleet"
"""The folder in the runtime folder that is the worker's own."""

Say = Callable[[str], None]
"""A function that prints a sentence for the operator."""


@dataclass(frozen=True)
class Membership:
    """What a host joins, and as what.

    :ivar url: the address of the coordinator, as `address.url` returns it.
    :ivar certificates: the folder of the host's certificate.
    """

    url: str
    certificates: Path
    offer: Offer


@contextmanager
def alone(runtime: Path) -> Iterator[None]:
    """Be the only worker that uses a runtime folder.

    :raise HostBusy: there is another one.
    :raise HostError: the runtime folder cannot be used.
    """
    path = runtime / "fleet.lock"
    with ownership.registry(runtime):
        try:
            fd = lock.take(path, os.O_RDWR | os.O_CREAT, wait=False)
            if fd is None:
                raise HostBusy(
                    f"This host has joined a fleet already, by process {path.read_text().strip()}; "
                    "end that one first, or have another `kickbench fleet join` use a runtime "
                    "folder of its own (KICKBENCH_RUNTIME)."
                )
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
        except OSError as error:
            raise ownership.unusable(runtime, error) from None
    try:
        shutil.rmtree(runtime / FOLDER, ignore_errors=True)  # of a worker that was killed
        yield
    finally:
        shutil.rmtree(runtime / FOLDER, ignore_errors=True)
        os.close(fd)


async def serve(membership: Membership, settings: Settings, say: Say) -> NoReturn:
    """Work for the coordinator until this is cancelled, whatever happens to the connection.

    :raise CertificateUnusable: the certificate of this host cannot be used.
    :raise HostError: this machine has no id.
    """
    configuration.for_worker()
    said: type[FleetError] | None = None
    wait_s = FIRST_WAIT_S
    while True:
        try:
            # A host that is let go each time says so once.
            await _work(membership, settings, _nothing if said is FleetRefused else say)
            said, wait_s = None, FIRST_WAIT_S
            say(f"The connection to the coordinator at {membership.url} was lost; joining again.")
        except (FleetUnreachable, FleetRefused) as error:
            if type(error) is not said:
                said = type(error)
                say(f"{error} Trying again, at least every {LONGEST_WAIT_S:.0f} s.")
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _nothing(sentence: str) -> None:
    """Print nothing."""


async def _work(membership: Membership, settings: Settings, say: Say) -> None:
    """Join once, and work until the connection is lost. Nothing of the work runs afterwards.

    :raise FleetUnreachable, FleetRefused: the host did not join, or was let go at once.
    """
    offer = membership.offer
    credentials = security.load(membership.certificates, role=Role.HOST)
    await reach.check(membership.url, credentials, "worker")
    facts = await asyncio.to_thread(
        joining.facts, settings, offer.kinds, offer.room, reboots=offer.reboot is not None
    )
    host = ThisHost(settings, offer)
    worker = Worker(
        membership.url,
        # Dask refuses a second worker of a name, and this one may have been lost without notice.
        name=f"{facts.name}-{secrets.token_hex(4)}",
        security=credentials,
        nthreads=offer.room,
        resources={ROOM: offer.room, resource(facts.name): offer.room},
        startup_information={EXTRA: _reported(facts)},
        plugins=(host,),
        memory_limit=0,
        local_directory=str(settings.runtime / FOLDER),
        dashboard=False,
        dashboard_address=configuration.HTTP_ADDRESS,
        death_timeout=JOIN_LIMIT_S,
    )
    try:
        await _started(worker, membership.url)
        configuration.leave_alone(worker)
        say(f"This host, {facts.name}, has joined the fleet of {membership.url}.")
        joined_s = time.monotonic()
        await worker.finished()
        lasted_s = time.monotonic() - joined_s
    finally:
        await worker.close()
        await asyncio.to_thread(host.wait)
    if host.refused is not None:
        raise FleetRefused(
            f"The coordinator at {membership.url} does not want this host: {host.refused}"
        )
    if lasted_s < SOON_S and not host.asked:
        raise FleetRefused(
            f"The coordinator at {membership.url} let this host go at once; `kickbench fleet "
            "status` shows the reason, if it has refused this host."
        )


async def _started(worker: Worker, url: str) -> None:
    """Wait until a worker has joined.

    :raise FleetUnreachable, FleetRefused: it did not.
    """
    try:
        await worker
    except TimeoutError:
        raise FleetUnreachable(
            f"The coordinator at {url} did not let this host join within {JOIN_LIMIT_S:.0f} s; "
            "check that the host can be reached from the coordinator as well."
        ) from None
    except RuntimeError as error:
        raise _refusal(url, error.__cause__ or error) from None


def _refusal(url: str, error: BaseException) -> FleetError:
    if isinstance(error, OSError):
        return reach.explained(url, error)
    return FleetRefused(f"The coordinator at {url} did not let this host join: {error}.")


def _reported(facts: HostFacts) -> Callable[[Worker], str]:
    """The function that reports the facts, with the time at which it is called."""

    def report(worker: Worker) -> str:
        return msgspec.json.encode(replace(facts, clock_ns=time.time_ns())).decode()

    return report
