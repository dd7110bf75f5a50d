# SPDX-License-Identifier: BSD-3-Clause
"""asv's environment `kernel-fleet`: any kernel, booted in a lab on a host of the fleet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from bench_lib import interrupt
from bench_lib.asv_bridge.environment import KernelEnvironment, refuse
from bench_lib.asv_bridge.repo import KernelRepo
from bench_lib.errors import FleetRefused, KickbenchError, UnknownHost
from bench_lib.fleet import campaigns
from bench_lib.fleet.hosts import OUT_OF_USE, unknown_host
from bench_lib.fleet.status import HostState, HostStatus
from bench_lib.fleet.work import Kind
from bench_lib.settings import Settings


class KernelFleet(KernelEnvironment):
    """An environment in which one host of the fleet boots the kernel that asv requests in a lab.

    Only the trials run there. Benchmark processes and asv itself run here, and so the results of
    asv are kept here. The coordinator keeps the records.
    """

    tool_name = "kernel-fleet"

    kept = "the coordinator keeps the boots that were finished, and cancels the last one"

    @property
    def name(self) -> str:
        """The name with the host and its accelerator, so that each has a series of its own.

        asv names files and graphs by it, so it replaces characters that these cannot have. Names of
        hosts have none of them.
        """
        facts = self._host.facts
        return f"{self.tool_name}-{facts.name}-{facts.accelerator}"

    @cached_property
    def _host(self) -> HostStatus:
        """The host that makes the trials, as it was when this environment was made."""
        try:
            settings = self.settings()
            return chosen(hosts(settings), settings.fleet_host)
        except KickbenchError as error:
            refuse(str(error), error.exit_status)

    def install_project(self, conf: Any, repo: KernelRepo, commit_hash: str) -> None:
        """Refuse a run before any part of it is done, if the host can make no trials now."""
        try:
            facts = self._host.facts
            check(chosen(hosts(self.settings()), facts.name), facts.accelerator)
        except KickbenchError as error:
            refuse(str(error), error.exit_status)
        self._installed = commit_hash

    def benchmark_variables(self) -> dict[str, str]:
        """Return the variables that name the kernel to measure, and the host that does it."""
        return {
            "KICKBENCH_KERNEL": self._installed or "",
            "KICKBENCH_FLEET_HOST": self._host.facts.name,
        }


def hosts(settings: Settings) -> tuple[HostStatus, ...]:
    """Ask the coordinator for the hosts of the fleet.

    :raise FleetError: the fleet cannot be used.
    """
    return interrupt.run(campaigns.status(settings)).hosts


def chosen(there: Sequence[HostStatus], name: str | None) -> HostStatus:
    """Return the host of this name, or without a name the only one that could make trials.

    :raise UnknownHost: there is no such host, or there are several.
    """
    by_name = {each.facts.name: each for each in there}
    if name is not None:
        if name not in by_name:
            raise unknown_host(name, by_name)
        return by_name[name]
    able = [
        each.facts.name
        for each in there
        if Kind.LAB in each.facts.kinds and each.state not in {*OUT_OF_USE, HostState.AWAY}
    ]
    if len(able) == 1:
        return by_name[able[0]]
    if able:
        raise UnknownHost(
            f"{len(able)} hosts of the fleet could make the trials ({', '.join(able)}), but asv "
            "measures one; name it in KICKBENCH_FLEET_HOST."
        )
    why = "; ".join(f"{each.facts.name} is {each.state}" for each in there) or "none has joined"
    raise UnknownHost(
        f"No host of the fleet can do lab work now: {why}. `kickbench fleet status` shows more."
    )


def check(host: HostStatus, accelerator: str) -> None:
    """Check that a host can make trials now, or as soon as it has its turn.

    :param accelerator: the accelerator of its labs that results are kept under.
    :raise FleetRefused: it cannot.
    """
    name = host.facts.name
    if Kind.LAB not in host.facts.kinds:
        raise FleetRefused(
            f"{name} offers no lab work; let it join with `kickbench fleet join --labs N`, or name "
            "another host in KICKBENCH_FLEET_HOST."
        )
    if host.facts.accelerator != accelerator:
        raise FleetRefused(
            f"The labs of {name} had {accelerator} when asv began, and have "
            f"{host.facts.accelerator} now; run asv again."
        )
    if host.state in {*OUT_OF_USE, HostState.AWAY}:
        reason = f" ({host.reason})" if host.reason else ""
        raise FleetRefused(
            f"{name} is {host.state}{reason}; bring it back, or name another host in "
            "KICKBENCH_FLEET_HOST."
        )
