# SPDX-License-Identifier: BSD-3-Clause
"""What the coordinator reports about the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bench_lib.fleet.facts import HostFacts
from bench_lib.fleet.work import Finding


class HostState(StrEnum):
    """What a host of the fleet is doing."""

    EXAMINED = "examined"
    """It has joined, and the doctor is running."""
    READY = "ready"
    """It waits for work."""
    WORKING = "working"
    """It makes one or more boots."""
    REBOOTING = "rebooting"
    """It was told to boot another kernel, and has not come back yet."""
    AWAY = "away"
    """It is not connected."""
    DRAINED = "drained"
    """The operator has taken it out of use."""
    SET_ASIDE = "set aside"
    """The coordinator has taken it out of use, for a reason."""


class CampaignState(StrEnum):
    """What has become of a campaign."""

    RUNNING = "running"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    """It has ended, but boots are missing that no host can make now."""
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class HostStatus:
    """A host of the fleet.

    :ivar reason: why the host is set aside; None if it is not.
    :ivar doing: what the host is doing, one text per boot.
    :ivar since_s: for how many seconds the host has been in this state.
    :ivar boots: the number of boots that it has made since the coordinator was started.
    :ivar lost: how many of their trials were lost.
    :ivar failures: the number of boots that failed one after the other.
    :ivar findings: what the doctor found that is not fine.
    :ivar notes: what is unusual about the host but does not keep it from working, as sentences:
        a clock that is wrong, a QEMU or a set-up that differs from that of other hosts.
    """

    facts: HostFacts
    state: HostState
    reason: str | None
    doing: tuple[str, ...]
    since_s: float
    boots: int
    lost: int
    failures: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CampaignStatus:
    """A campaign.

    :ivar what: the campaign in words: its kernels and requests.
    :ivar boots: the number of all boots, and `done` of those that are recorded.
    :ivar trials: the number of trials that are recorded.
    :ivar lost: how many of them were lost.
    :ivar running: the number of boots that are being made.
    :ivar left_s: how many seconds are left at the present speed; None if that is not known.
    :ivar missing: why boots are missing that no host can make now, as sentences.
    :ivar warnings: what the operator should know beside that, as sentences.
    """

    id: str
    what: str
    state: CampaignState
    boots: int
    done: int
    trials: int
    lost: int
    running: int
    left_s: float | None
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """A connection that the coordinator refused.

    :ivar address: where it came from, without the port.
    :ivar reason: why, in the words of the TLS library, or as a sentence.
    :ivar times: how often.
    :ivar last: when it was last refused (UTC, ISO 8601).
    """

    address: str
    reason: str
    times: int
    last: str


@dataclass(frozen=True)
class FleetStatus:
    """The fleet.

    :ivar address: the address that hosts and users connect to.
    :ivar started: when the coordinator was started (UTC, ISO 8601).
    :ivar records: the record file.
    :ivar dashboard: the address of Dask's dashboard; None if it does not run.
    :ivar notes: what is unusual about the coordinator, as sentences.
    """

    address: str
    kickbench: str
    started: str
    records: str
    dashboard: str | None
    hosts: tuple[HostStatus, ...]
    campaigns: tuple[CampaignStatus, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[str, ...] = ()
