# SPDX-License-Identifier: BSD-3-Clause
"""Configure Dask: so that hosts are left alone, breaks are noticed, and its log stays quiet.

Each function sets Dask's configuration for the whole process. It has to be called before a
scheduler, worker or client is made, because they read it then.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import dask
import distributed

from bench_lib.fleet import handshakes

HTTP_ADDRESS = "127.0.0.1:0"
"""`dashboard_address` of schedulers and workers. Dask starts their HTTP servers even without a
dashboard, and these servers know neither encryption nor certificates."""

HEARTBEAT_S = 10
"""How often a worker reports to the scheduler. Dask's own interval is 0.5 s in a small fleet."""

NEVER = "3650 days"

_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "bokeh", "tornado",
            "tornado.application")  # fmt: skip
"""The loggers to which Dask gives handlers of its own when it is imported."""

_COMMON: dict[str, Any] = {
    "distributed.comm.require-encryption": True,
    "distributed.comm.timeouts.connect": "20s",
    # The kernel closes a connection after 30 s without an answer: a host that is cut off for 5 s
    # stays, and one that is cut off for 2 minutes is noticed, on both sides.
    "distributed.comm.timeouts.tcp": "30s",
    "distributed.comm.retry.count": 0,
    # Samples of stacks, every 10 ms.
    "distributed.worker.profile.enabled": False,
    # Whether the event loop is late, every 20 ms.
    "distributed.admin.tick.interval": NEVER,
    "distributed.admin.tick.cycle": NEVER,
    # Load of the process and the machine, every 500 ms.
    "distributed.admin.system-monitor.interval": NEVER,
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.system-monitor.host-cpu": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.diagnostics.nvml": False,
    "distributed.diagnostics.cudf": False,
    "distributed.diagnostics.computations.nframes": 0,
}

_COORDINATOR: dict[str, Any] = {
    # Retries are counted by the coordinator, which sees every death of a worker therefore.
    "distributed.scheduler.allowed-failures": 0,
    # Only for workers that have stopped, because TCP notices hosts that are cut off. It is long
    # because it compares times of the clock, which may be set forward.
    "distributed.scheduler.worker-ttl": "5 minutes",
    "distributed.scheduler.idle-timeout": None,
    "distributed.scheduler.no-workers-timeout": None,
    # All work is bound to its host.
    "distributed.scheduler.work-stealing": False,
    # Results are a few kilobytes and are collected at once; there is nothing to move or to drop.
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.scheduler.preload": [],
}

_WORKER: dict[str, Any] = {
    "distributed.worker.http.routes": [],
    # The memory of a worker is not limited, so it need not be watched.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.memory.transfer": False,
    "distributed.worker.memory.monitor-interval": NEVER,
    "distributed.worker.lifetime.duration": None,
    "distributed.worker.preload": [],
    "distributed.worker.resources": {},
}

_CLIENT: dict[str, Any] = {
    "distributed.client.heartbeat": "5s",
    "distributed.client.scheduler-info-interval": "60s",
    "distributed.client.direct-to-workers": False,
    "distributed.client.preload": [],
}


def for_coordinator(*, dashboard: bool) -> None:
    """Configure Dask for a scheduler, and for clients in the same process.

    :param dashboard: whether Dask's dashboard is served too.
    """
    routes = [
        "distributed.http.scheduler.info",
        "distributed.http.scheduler.json",
        "distributed.http.statics",
    ]
    _apply(_COMMON, _CLIENT, _COORDINATOR)
    dask.config.set({"distributed.scheduler.http.routes": routes if dashboard else []})
    if dashboard:
        # It shows the load of the coordinator.
        dask.config.set({"distributed.admin.system-monitor.interval": "2s"})


def for_worker() -> None:
    """Configure Dask for a worker, so that an idle one uses as little CPU time as possible."""
    _apply(_COMMON, _WORKER)


def for_client() -> None:
    """Configure Dask for a client."""
    _apply(_COMMON, _CLIENT)


def leave_alone(worker: distributed.Worker) -> None:
    """Make a worker that has started leave its host alone.

    It stops what Dask does now and then and cannot be configured, and makes heartbeats rare: the
    scheduler answers each of them with the interval that Dask prefers.
    """
    callbacks = worker.periodic_callbacks
    callbacks["shift_counters"].stop()
    # It looks for results of other workers that a task needs; no task needs any.
    callbacks["find-missing"].stop()
    heartbeat = callbacks["heartbeat"]
    beat = heartbeat.callback

    async def beat_rarely() -> None:
        done = beat()
        assert done is not None
        await done
        heartbeat.callback_time = HEARTBEAT_S * 1000

    heartbeat.callback = beat_rarely


def _apply(*parts: dict[str, Any]) -> None:
    for part in parts:
        dask.config.set(part)
    handshakes.limit()
    _quiet()


def _quiet() -> None:
    """Take Dask's log from the terminal. With -v, warnings are printed like those of kickbench.

    What users have to know, kickbench reports in sentences of its own.
    """
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [each for each in logger.handlers if not _prints(each)]
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    for name in ("distributed", "tornado", "bokeh"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        # Without a handler, Python would print warnings on stderr.
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", module=r"distributed(\.|$)")


def _prints(handler: logging.Handler) -> bool:
    return type(handler) is logging.StreamHandler
