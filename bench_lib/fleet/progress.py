# SPDX-License-Identifier: BSD-3-Clause
"""How far a campaign is."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bench_lib import record
from bench_lib.fleet import conditions
from bench_lib.fleet.conditions import Conditions
from bench_lib.fleet.plan import Boot, Plan
from bench_lib.fleet.status import CampaignState, CampaignStatus
from bench_lib.record import Outcome, Record

ATTEMPTS = 5
"""A boot that has failed so often is given up."""

RECENT = 1000
"""The number of records that a user can still get who follows a campaign."""

Place = tuple[str | None, int]
"""The host and the number of a boot, as `Plan.place` returns them."""


@dataclass(frozen=True)
class Progress:
    """What is new in a campaign.

    :ivar seen: the number of records so far, to be passed when asking for more news.
    :ivar lines: the records that are new, as `record.to_line` encodes them. Of very many, only
        the last ones.
    """

    seen: int
    status: CampaignStatus
    lines: tuple[str, ...]


@dataclass
class Underway:
    """A campaign, and how far it is.

    :ivar done: the places of the boots that are recorded.
    :ivar queues: for each host, the boots that are not begun yet, in the order to make them in.
    :ivar counts: the number of records of each boot.
    :ivar limit_s: how long one boot may take.
    :ivar running: the number of boots that are being made.
    :ivar attempts: how often each boot has failed.
    :ivar boot_ids: for each host, the boots of it (boot_id) that host work was recorded in.
    :ivar conditions: for each host, those under which its records were made.
    :ivar ended: for each host, why it makes no more boots.
    :ivar given_up: why boots were given up, by place.
    :ivar warnings: what the operator should know, by subject.
    :ivar recent: the last records, as lines.
    :ivar started: when it began or went on, on the monotonic clock; `latest` is when the latest of
        `done_here` boots since then was made.
    """

    plan: Plan
    state: CampaignState = CampaignState.RUNNING
    done: set[Place] = field(default_factory=set)
    counts: Counter[Place] = field(default_factory=Counter)
    limit_s: float = 0.0
    queues: dict[str | None, list[Boot]] = field(default_factory=dict)
    running: int = 0
    attempts: Counter[Place] = field(default_factory=Counter)
    boot_ids: dict[str, set[str]] = field(default_factory=dict)
    conditions: dict[str, Conditions] = field(default_factory=dict)
    ended: dict[str | None, str] = field(default_factory=dict)
    given_up: dict[Place, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    trials: int = 0
    lost: int = 0
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT))
    started: float = field(default_factory=time.monotonic)
    latest: float = 0.0
    done_here: int = 0

    def __post_init__(self) -> None:
        self.boots = self.plan.boots * len(self.plan.kernels) * max(1, len(self.plan.hosts))

    def start(self) -> None:
        """Begin, or go on after it has ended without some of its boots."""
        self.state = CampaignState.RUNNING
        self.attempts.clear()
        self.ended.clear()
        self.given_up.clear()
        self.queues = {host: [] for host in self.plan.hosts or (None,)}
        for boot in self.plan.all_boots():
            if (boot.host, boot.number) not in self.done:
                self.queues[boot.host].append(boot)
        self.started = self.latest = time.monotonic()
        self.done_here = 0

    def take(self, records: Iterable[Record]) -> None:
        """Take down records, of which some may be of this campaign."""
        for each in records:
            place = self.plan.place(each)
            if place is None:
                continue
            self.counts[place] += 1
            if self.counts[place] >= len(self.plan.cases):
                self.done.add(place)
            self.boot_ids.setdefault(each.host.machine, set()).add(each.boot_id)
            found = self.conditions.setdefault(each.host.machine, {})
            for name, value in conditions.of_record(each).items():
                found.setdefault(name, set()).add(value)
            self.trials += 1
            self.lost += each.outcome is Outcome.LOST

    def made(self, records: Sequence[Record]) -> None:
        """Take down a boot that was made just now."""
        self.take(records)
        self.recent.extend(record.to_line(each) for each in records)
        self.done_here += 1
        self.latest = time.monotonic()

    def failed(self, boot: Boot, reason: str) -> None:
        """Take down a boot that failed. It comes last then, so that other kernels come between.

        If it has failed too often, it is given up.
        """
        place = boot.host, boot.number
        self.attempts[place] += 1
        if self.attempts[place] < ATTEMPTS:
            self.queues[boot.host].append(boot)
        else:
            self.given_up[place] = (
                f"A boot of {boot.kernel.release} was given up after {ATTEMPTS} attempts: {reason}"
            )

    def again(self, boot: Boot) -> None:
        """Take down a boot that was broken off, and is made next unless it has its records."""
        if (boot.host, boot.number) not in self.done:
            self.queues[boot.host].insert(0, boot)

    def next(self, host: str | None, fits: Callable[[Boot], bool]) -> Boot | None:
        """Take the first boot that fits out of a host's queue."""
        queue = self.queues[host]
        for index, boot in enumerate(queue):
            if fits(boot):
                return queue.pop(index)
        return None

    def used(self, host: str, boot_id: str) -> bool:
        """Whether host work of this campaign was recorded in this boot of the host."""
        return boot_id in self.boot_ids.get(host, set())

    @property
    def stuck(self) -> bool:
        """Whether nothing is being made, and no host can go on."""
        waiting = {host for host, queue in self.queues.items() if queue}
        return not self.running and waiting <= self.ended.keys()

    @property
    def complete(self) -> bool:
        """Whether every boot is recorded."""
        return len(self.done) >= self.boots

    @property
    def left_s(self) -> float | None:
        """Seconds that are left at the speed so far; None if that is not known."""
        if self.state is not CampaignState.RUNNING or not self.done_here:
            return None
        each_s = (self.latest - self.started) / self.done_here
        waited_s = time.monotonic() - self.latest
        return max(0.0, each_s * (self.boots - len(self.done)) - waited_s)

    def progress(self, seen: int) -> Progress:
        """Return what is new to a user who has seen this many records."""
        new = self.trials - seen
        lines = tuple(self.recent)[-new:] if new > 0 else ()
        return Progress(self.trials, self.status(), lines)

    def status(self) -> CampaignStatus:
        """Return the campaign as the coordinator reports it."""
        missing = dict.fromkeys([*self.ended.values(), *self.given_up.values()])
        return CampaignStatus(
            id=self.plan.id,
            what=what(self.plan),
            state=self.state,
            boots=self.boots,
            done=len(self.done),
            trials=self.trials,
            lost=self.lost,
            running=self.running,
            left_s=self.left_s,
            missing=() if self.complete else tuple(missing),
            warnings=tuple(self.warnings.values()),
        )


def what(plan: Plan) -> str:
    """Return a campaign in words: stop in idle, blackhole under 6.1.0-56 and 6.12.117 (lab)."""
    requests: dict[str, list[str]] = {}
    for case in plan.cases:
        places = requests.setdefault(case.request, [])
        if case.scenario not in places:
            places.append(case.scenario)
    cases = "; ".join(f"{name} in {', '.join(places)}" for name, places in requests.items())
    return f"{cases} under {listed([each.release for each in plan.kernels])} ({plan.kind})"


def listed(words: Sequence[str]) -> str:
    """Return words as a list in a sentence: a, b and c."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
