# SPDX-License-Identifier: BSD-3-Clause
"""The hosts that the coordinator knows: they join, are examined, are rebooted, and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import bench_lib
from bench_lib.errors import FleetError
from bench_lib.fleet import members, performing, work
from bench_lib.fleet.background import Background
from bench_lib.fleet.calls import Calls, Dropped
from bench_lib.fleet.facts import HostFacts
from bench_lib.fleet.hosts import unknown_host
from bench_lib.fleet.journal import Journal, KeptHost
from bench_lib.fleet.members import Member
from bench_lib.fleet.news import News
from bench_lib.fleet.status import HostStatus
from bench_lib.fleet.work import Examined, Kind, Result
from bench_lib.record import Kernel

REBOOT_S = 900.0
"""After how many seconds a host that does not come back from a reboot is set aside."""

EXAMINE_S = 600.0
"""The longest that the doctor may take on a host."""

ANSWER_S = 120.0
"""The longest that a host may take to begin a reboot."""

LOOK_S = 5.0
"""How often to look whether a host that was rebooted has run out of time."""

PAUSE_S = 30.0
"""How long to wait before a host is asked again that could not be rebooted."""


class Roster:
    """The hosts by name, which is unique in a fleet."""

    def __init__(
        self,
        calls: Calls,
        journal: Journal,
        news: News,
        background: Background,
        on_event: Callable[[str], None],
    ) -> None:
        """Remember the hosts of the journal.

        :param on_event: called with a sentence for the operator's log.
        :raise FleetError: the journal cannot be read.
        """
        self._calls = calls
        self._journal = journal
        self._news = news
        self._background = background
        self._say = on_event
        self._members = {
            name: Member(kept.facts, drained=kept.drained, aside=kept.aside)
            for name, kept in journal.hosts().items()
        }

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def find(self, name: str) -> Member:
        """Return a host.

        :raise UnknownHost: the fleet has no host of this name.
        """
        member = self._members.get(name)
        if member is None:
            raise unknown_host(name, self._members)
        return member

    def get(self, name: str) -> Member | None:
        """Return a host, or None if it has not joined yet."""
        return self._members.get(name)

    def at(self, address: str) -> Member | None:
        """Return the host whose worker has this address."""
        return next((each for each in self if each.address == address), None)

    def address_of(self, facts: HostFacts) -> str | None:
        """Return the address at which this very machine is connected already; None if it is not."""
        member = self._members.get(facts.name)
        same = member is not None and member.facts.machine_id == facts.machine_id
        return member.address if member is not None and same else None

    def joined(self, facts: HostFacts, address: str, unfit: str | None, *, recorded: bool) -> str:
        """Take in a host.

        :param unfit: why its records could not be compared with its others; None if they can.
        :param recorded: whether a campaign has records of a host of this name.
        :return: why it is refused, as a sentence; "" if it is not.
        """
        member = self._members.get(facts.name)
        if member is not None and member.facts.machine_id != facts.machine_id:
            if member.address or recorded:
                return (
                    f"Another machine of the fleet is named {facts.name} already (machine id "
                    f"{member.facts.machine_id[:8]}, and not {facts.machine_id[:8]}); give this "
                    "one another name with hostnamectl."
                )
            member = None
        if member is None:
            member = self._members[facts.name] = Member(facts)
        elif member.booting and member.facts.boot_id != facts.boot_id:
            self._check_booted(member, facts)
        clock = members.clock_note(facts, time.time_ns())
        member.notes = (clock,) if clock else ()
        member.joined(members.without_clock(facts), address, bench_lib.__version__)
        member.unfit = member.unfit or unfit
        self._say(f"{facts.name} has joined, under {facts.kernel.release}")
        self.keep()
        if member.unfit:
            self._say(f"{facts.name} is set aside: {member.unfit}")
        else:
            self._begin_examining(member)
        self._news.tell(facts.name, None)
        return ""

    def left(self, address: str) -> None:
        """Take down that the connection to a host was lost."""
        member = self.at(address)
        if member is None:
            return  # it was refused, or has joined again since then
        member.left()
        self._say(f"{member.facts.name} has gone")
        self._news.tell(member.facts.name, None)

    def succeeded(self, member: Member, kernel: Kernel, lost: int, *, barren: bool) -> None:
        """Take down that a host has made a boot; see `Member.succeeded`."""
        member.succeeded(kernel, lost, barren=barren)
        self._if_aside(member)

    def failed(self, member: Member, kernel: Kernel, reason: str) -> None:
        """Take down that a boot failed on a host."""
        self._say(f"a boot of {kernel.release} failed on {member.facts.name}: {reason}")
        member.has_failed(kernel, reason)
        self._if_aside(member)

    def dropped(self, member: Member) -> None:
        """Take down that the connection to a host was lost while it made a boot."""
        member.was_dropped()
        self._if_aside(member)

    def drain(self, name: str, *, undo: bool) -> None:
        """Give no more work to a host, or give it work again, even if it was set aside.

        :raise UnknownHost: the fleet has no host of this name.
        """
        member = self.find(name)
        if not undo:
            member.drain()
        elif member.aside or member.unfit or member.drained:
            fit = member.unfit is None
            member.readmit()
            if member.address is not None and not fit:
                member.unfit = members.other_version(member.facts, bench_lib.__version__)
                member.examined = None
                self._begin_examining(member)
        self.keep()
        self._news.tell(name, None)

    def with_room(self, kind: Kind, name: str | None) -> Member | None:
        """Return a host that can be given a boot now: the one of this name, or of any name.

        Of several, it is the one that is least busy, and has been so for the longest time.
        """
        chosen = self if name is None else filter(None, [self._members.get(name)])
        able = [each for each in chosen if each.room(kind) > 0]
        return min(able, key=lambda each: (each.busy, each.since), default=None)

    def statuses(self) -> tuple[HostStatus, ...]:
        """Return what is known of each host, by name."""
        found = []
        for name, member in sorted(self._members.items()):
            others = [each.facts for each in self if each is not member]
            notes = members.differences(member.facts, others)
            found.append(self._members[name].status(self._calls.working(member), notes))
        return tuple(found)

    def _begin_examining(self, member: Member) -> None:
        member.busy += 1
        self._background.spawn(self._examine(member))

    async def _examine(self, member: Member) -> None:
        """Let the doctor look at a host, which is the first thing that it does."""
        address = member.address
        try:
            text = await self._calls.on(member, "doctor", EXAMINE_S, performing.examine)
            found = work.from_json(text, Examined)
        except Dropped:
            return
        except Exception as error:  # noqa: BLE001  # what a host raises may be of any class
            found = Examined((), failure=str(error) or type(error).__name__)
        if member.address != address:
            return
        member.was_examined(found)
        name = member.facts.name
        self._say(f"{name} is set aside: {member.unfit}" if member.unfit else f"{name} is ready")
        self._news.tell(name, None)

    async def reboot(self, member: Member, kernel: Kernel, campaign: str) -> None:
        """Boot a host into a kernel, and wait until it is back. If that fails, take it down.

        :param campaign: the id of the campaign that wants it, and may use it first.
        """
        name = member.facts.name
        member.boots_into(kernel.release, campaign)
        self._say(f"{name} boots {kernel.release}")
        self._news.tell(name, None)
        try:
            async with asyncio.timeout(REBOOT_S):
                result = await self._ask_to_reboot(member, kernel)
                if result.failure is not None:
                    member.booting = None
                    if not result.busy:
                        self._reboot_failed(member, result.failure)
                    await asyncio.sleep(PAUSE_S)
                while member.booting:
                    await self._news.wait(name, LOOK_S)
        except TimeoutError:
            member.set_aside(
                f"it did not come back within {REBOOT_S:.0f} s after it was told to boot "
                f"{kernel.release}"
            )
            self._if_aside(member)
        finally:
            # If this was cancelled, the host may still go, and will join under whatever it boots.
            member.booting = None
            self._news.tell(name, None)

    async def _ask_to_reboot(self, member: Member, kernel: Kernel) -> Result:
        """Tell a host to reboot, and return what it says; nothing if it has gone already."""
        text = f"reboot into {kernel.release}"
        member.busy += 1
        try:
            answer = await self._calls.on(member, text, ANSWER_S, performing.reboot, kernel.release)
            return work.from_json(answer, Result)
        except Dropped:
            return Result()
        except Exception as error:  # noqa: BLE001  # what a host raises may be of any class
            return Result(failure=str(error) or type(error).__name__)

    def _reboot_failed(self, member: Member, reason: str) -> None:
        self._say(f"{member.facts.name} was not rebooted: {reason}")
        member.reboot_failed(reason)
        self._if_aside(member)

    def _check_booted(self, member: Member, facts: HostFacts) -> None:
        """Take down that a host has come back from a reboot, maybe with another kernel."""
        wanted, member.booting = member.booting, None
        if wanted != facts.kernel.release:
            came = facts.kernel.release
            self._reboot_failed(member, f"it was told to boot {wanted}, and came back with {came}")

    def _if_aside(self, member: Member) -> None:
        if member.aside:
            self._say(f"{member.facts.name} is set aside: {member.aside}")
            self.keep()
            self._news.tell(member.facts.name, None)

    def keep(self) -> None:
        """Write all hosts to the journal. The coordinator works without it, but forgets them."""
        kept = {
            name: KeptHost(each.facts, each.drained, each.aside)
            for name, each in self._members.items()
        }
        try:
            self._journal.keep_hosts(kept)
        except FleetError as error:
            self._say(str(error))
