# SPDX-License-Identifier: BSD-3-Clause
"""How Dask behaves as it is configured for a fleet."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest
import yaml
from distributed import Client, Worker

from bench_lib.fleet import configuration, security
from bench_lib.fleet.bundle import Role
from tests.conftest import HANG_S
from tests.fleet.test_security import made, running


@pytest.fixture(autouse=True)
def _configuration_of_its_own() -> Any:
    with dask.config.set({}):
        yield


@pytest.mark.parametrize(
    "configure",
    [
        lambda: configuration.for_coordinator(dashboard=True),
        configuration.for_worker,
        configuration.for_client,
    ],
)
def test_dask_has_every_setting(
    configure: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that Dask does not know would be accepted, and have no effect."""
    chosen: dict[str, Any] = {}
    monkeypatch.setattr(dask.config, "set", chosen.update)
    configure()
    path = Path(distributed.__file__).with_name("distributed.yaml")
    known = yaml.safe_load(path.read_text())
    assert len(chosen) > 10
    assert [name for name in chosen if dask.config.get(name, missing, known) is missing] == []


missing = object()


def worker(url: str, ca: Path, name: str) -> Worker:
    configuration.for_worker()
    return Worker(
        url,
        host="127.0.0.1",
        name=name,
        nthreads=1,
        resources={"room": 1, f"host-{name}": 1},
        security=security.load(ca / "hosts" / "a", role=Role.HOST),
        memory_limit=0,
        dashboard=False,
        dashboard_address=configuration.HTTP_ADDRESS,
        local_directory=str(ca.parent / name),
    )


def test_an_idle_worker_only_reports_that_it_is_there(tmp_path: Path) -> None:
    """Callbacks that are left have to be due rarely. Dask's own are due 100 times a second."""

    async def run() -> None:
        ca = made(tmp_path / "ca")
        async with running(ca) as at, worker(at.url, ca, "a") as there:
            configuration.leave_alone(there)
            due_s = {
                name: callback.callback_time / 1000
                for name, callback in there.periodic_callbacks.items()
                if callback.is_running()
            }
            assert sorted(name for name, each in due_s.items() if each < 3600) == [
                "heartbeat",
                "keep-alive",
            ]
            beat = there.periodic_callbacks["heartbeat"].callback()
            assert beat is not None
            await beat
            # The scheduler has just asked for one every 0.5 s.
            assert there.periodic_callbacks["heartbeat"].callback_time == 10_000

    asyncio.run(run())


release = threading.Event()


@pytest.fixture
def held_work() -> Iterator[None]:
    """Work that waits in workers of this process ends with the test."""
    release.clear()
    yield
    release.set()


def hold(number: int) -> int:
    release.wait(HANG_S)
    return number


def where(number: int) -> str:
    return str(distributed.get_worker().name)


def test_work_of_a_host_is_taken_by_no_other(tmp_path: Path, held_work: None) -> None:

    async def run() -> None:
        ca = made(tmp_path / "ca")
        async with (
            running(ca) as at,
            worker(at.url, ca, "first") as first,
            worker(at.url, ca, "second"),
            client(at.url, ca) as user,
        ):
            needs = {"room": 1, "host-first": 1}
            held = user.submit(hold, 1, key="boot-1", resources=needs)
            bound = user.submit(where, 2, key="boot-2", resources=needs)
            await until(lambda: len(at.scheduler.workers[first.address].processing) == 2)
            assert not bound.done()
            release.set()
            assert await held == 1
            assert await bound == "first"

    asyncio.run(run())


def client(url: str, ca: Path) -> Client:
    user = security.load(ca / "users" / "anna", role=Role.USER)
    return Client(url, security=user, asynchronous=True)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_S):
        while True:
            if true():
                return
            await asyncio.sleep(0.01)


LOG = """
import logging, sys, warnings
if "-v" in sys.argv:
    logging.basicConfig(format="%(name)s: %(message)s")
from bench_lib.fleet import configuration
configuration.for_worker()
for name in ("distributed.worker", "distributed.client", "tornado.general", "tornado.application"):
    logging.getLogger(name).info("not worth mentioning")
    logging.getLogger(name).warning("broken")
warnings.warn_explicit("a port is taken", UserWarning, "node.py", 1, module="distributed.node")
"""


def test_dasks_log_is_printed_only_with_v() -> None:
    quiet = subprocess.run([sys.executable, "-c", LOG], capture_output=True, text=True, check=True)
    assert quiet.stderr == ""
    loud = subprocess.run(
        [sys.executable, "-c", LOG, "-v"], capture_output=True, text=True, check=True
    )
    assert loud.stderr.splitlines() == [
        "distributed.worker: broken",
        "distributed.client: broken",
        "tornado.general: broken",
        "tornado.application: broken",
    ]
