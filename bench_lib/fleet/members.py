# SPDX-License-Identifier: BSD-3-Clause
"""The hosts of a fleet: what each may be given to do, and when one is set aside."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from bench_lib.fleet.facts import HostFacts
from bench_lib.fleet.status import HostState, HostStatus
from bench_lib.fleet.work import Examined, Kind
from bench_lib.record import Kernel

FAILURES = 3
"""After so many failed boots in a row a host is set aside."""

DROPS = 10
"""After so many lost connections in a row, each during work, a host is set aside. It is a larger
number, because a connection is also lost when someone boots the host."""

CLOCK_OFF_S = 30.0
"""A host whose clock differs by more is reported. Nothing depends on the clocks of hosts, except
the times in their records and whether their certificates are valid."""


@dataclass(frozen=True)
class Failure:
    """A boot that failed."""

    kernel: Kernel
    reason: str


@dataclass(frozen=True)
class Given:
    """Something that a host was given to do.

    :ivar text: what it is, in words.
    :ivar since: when it was given, on the monotonic clock.
    """

    text: str
    since: float


@dataclass
class Member:
    """A host of the fleet.

    :ivar address: the address of its worker; None while it is not connected.
    :ivar examined: what the doctor found; None until it has run since the host joined.
    :ivar unfit: why it cannot be used as it is now. It is found out again each time it joins.
    :ivar aside: why it was set aside. That stays until the operator undoes it.
    :ivar busy: how many boots and examinations it was given that it has not ended yet.
    :ivar booting: the release that it was told to boot; None if it was not.
    :ivar promised: the campaign that it was rebooted for, and which may use it first.
    :ivar good: the kernels that it has made boots of.
    :ivar barren: the boots in a row of which it has lost every trial.
    :ivar since: when its state last changed, on the monotonic clock.
    :ivar boots: the boots that it has made, and `lost` how many of their trials were lost.
    :ivar failed: the boots that have failed since the last one that did not.
    :ivar drops: the connections that were lost during work since then.
    :ivar astray: the reboots that have failed since then.
    """

    facts: HostFacts
    address: str | None = None
    examined: Examined | None = None
    unfit: str | None = None
    aside: str | None = None
    drained: bool = False
    busy: int = 0
    booting: str | None = None
    promised: str | None = None
    since: float = field(default_factory=time.monotonic)
    boots: int = 0
    lost: int = 0
    failed: list[Failure] = field(default_factory=list)
    drops: int = 0
    astray: int = 0
    barren: int = 0
    good: set[Kernel] = field(default_factory=set)
    notes: tuple[str, ...] = ()

    def joined(self, facts: HostFacts, address: str, version: str) -> None:
        """Take down that the host has joined.

        :param version: the coordinator's version of kickbench.
        """
        self.facts, self.address, self.examined, self.busy = facts, address, None, 0
        self.unfit = other_version(facts, version)
        self.since = time.monotonic()

    def left(self) -> None:
        """Take down that the connection to the host was lost."""
        self.address = self.examined = None
        self.busy = 0
        self.since = time.monotonic()

    def was_dropped(self) -> None:
        """Take down that the connection was lost while the host made a boot."""
        if self.booting:
            return
        self.drops += 1
        if self.drops >= DROPS:
            self.set_aside(f"its connection was lost {self.drops} times in a row while it worked")

    def was_examined(self, found: Examined) -> None:
        """Take down what the doctor found."""
        self.examined = found
        self.since = time.monotonic()
        if found.failure is not None:
            self.unfit = f"the doctor failed: {found.failure}"
        elif not set(found.kinds) & set(self.facts.kinds):
            missing = [each.sentence for each in found.findings if each.status == "missing"]
            self.unfit = f"the doctor says that no trial can run: {' '.join(missing)}".strip()

    def free(self, address: str | None) -> None:
        """Take down that the host has ended something that it was given at this address."""
        if address is not None and self.address == address:
            self.busy -= 1

    def succeeded(self, kernel: Kernel, lost: int, *, barren: bool) -> None:
        """Take down a boot that was made.

        :param lost: how many of its trials were lost.
        :param barren: whether all were, although they were tried.
        """
        self.boots += 1
        self.lost += lost
        self.since = time.monotonic()
        self.failed.clear()
        self.drops = self.astray = 0
        self.barren = self.barren + 1 if barren else 0
        if not barren:
            self.good.add(kernel)
        if self.barren >= FAILURES:
            self.set_aside(f"every trial of {self.barren} boots in a row was lost")

    def has_failed(self, kernel: Kernel, reason: str) -> None:
        """Take down a boot that failed; set the host aside if it was one too many."""
        self.failed.append(Failure(kernel, reason))
        self.since = time.monotonic()
        # A host that boots other kernels is not to blame for those that it has never booted.
        known = not self.good or any(each.kernel in self.good for each in self.failed)
        if len(self.failed) >= FAILURES and known:
            reason = self.failed[-1].reason
            self.set_aside(f"{len(self.failed)} boots failed in a row; the last one: {reason}")

    def reboot_failed(self, reason: str) -> None:
        """Take down that a reboot failed; set the host aside if it was one too many."""
        self.booting = None
        self.astray += 1
        if self.astray >= FAILURES:
            self.set_aside(f"{self.astray} reboots failed in a row; the last one: {reason}")

    def set_aside(self, reason: str) -> None:
        """Take the host out of use."""
        self.aside = reason
        self.since = time.monotonic()

    def drain(self) -> None:
        """Give the host no more work. What it does is finished."""
        self.drained = True
        self.since = time.monotonic()

    def boots_into(self, release: str, campaign: str) -> None:
        """Take down that the host was told to boot a kernel, and for which campaign."""
        self.booting, self.promised = release, campaign
        self.since = time.monotonic()

    def readmit(self) -> None:
        """Use the host again, after it was drained or set aside."""
        self.drained, self.aside, self.unfit = False, None, None
        self.failed.clear()
        self.drops = self.astray = self.barren = 0
        self.since = time.monotonic()

    def obstacle(self, kind: Kind) -> str | None:
        """Return why the host cannot be given this kind of work now, or None if it can."""
        if self.aside or self.unfit:
            return f"is set aside: {(self.aside or self.unfit or '').rstrip('.')}"
        if self.drained:
            return "is drained"
        if self.address is None:
            return f"is booting {self.booting}" if self.booting else "is away"
        if self.booting:
            return f"is booting {self.booting}"
        if self.examined is None:
            return "is being examined by the doctor"
        if kind not in self.facts.kinds:
            return f"does not offer {kind} work"
        if kind not in self.examined.kinds:
            return f"cannot do {kind} work, as the doctor says"
        return None

    def room(self, kind: Kind) -> int:
        """Return how many more boots the host can be given now."""
        return 0 if self.obstacle(kind) is not None else max(1, self.facts.room) - self.busy

    def state(self, *, working: bool) -> HostState:
        """Return what the host is doing."""
        if self.aside or (self.unfit and self.address):
            return HostState.SET_ASIDE
        if self.booting:
            return HostState.REBOOTING
        if self.address is None:
            return HostState.AWAY
        if self.drained:
            return HostState.DRAINED
        if self.examined is None:
            return HostState.EXAMINED
        return HostState.WORKING if working else HostState.READY

    def status(self, doing: Sequence[Given], notes: Iterable[str]) -> HostStatus:
        """Return the host as the coordinator reports it."""
        state = self.state(working=bool(doing))
        working = state is HostState.WORKING
        since = min(each.since for each in doing) if working else self.since
        return HostStatus(
            facts=self.facts,
            state=state,
            reason=(self.aside or self.unfit) if state is HostState.SET_ASIDE else None,
            doing=tuple(each.text for each in doing),
            since_s=time.monotonic() - since,
            boots=self.boots,
            lost=self.lost,
            failures=len(self.failed),
            findings=self.examined.findings if self.examined else (),
            notes=(*self.notes, *notes),
        )


def other_version(facts: HostFacts, version: str) -> str | None:
    """Return that a host has another kickbench than the coordinator, as a part of a sentence."""
    if facts.kickbench == version:
        return None
    return (
        f"it runs kickbench {facts.kickbench}, and the coordinator {version}; install the same "
        "version on both"
    )


def clock_note(facts: HostFacts, now_ns: int) -> str | None:
    """Return a sentence if the clock of a host that joins now is wrong; else None."""
    off_s = (facts.clock_ns - now_ns) / 1e9
    if abs(off_s) < CLOCK_OFF_S:
        return None
    way = "ahead of" if off_s > 0 else "behind"
    return (
        f"Its clock is {abs(off_s):.0f} s {way} the coordinator's; the times in its records are "
        "wrong by as much."
    )


def differences(facts: HostFacts, others: Iterable[HostFacts]) -> tuple[str, ...]:
    """Return in what a host differs from all other hosts of the fleet that agree, as sentences.

    Results of different hosts are never combined, so nothing here keeps a host from working.
    """
    found = []
    others = list(others)
    for what, name in (("QEMU", "qemu"), ("Dask", "dask"), ("Python", "python")):
        usual = {getattr(each, name) for each in others}
        here = getattr(facts, name)
        if len(usual) == 1 and here not in usual:
            found.append(f"It has {what} {here}; the other hosts have {usual.pop()}.")
    return tuple(found)


def without_clock(facts: HostFacts) -> HostFacts:
    """Return the facts without the time, which is not worth keeping."""
    return replace(facts, clock_ns=0)
