# SPDX-License-Identifier: BSD-3-Clause
"""Why a page may not arrive, and what was predicted for each reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec

from bench_lib.kernel.ledger import version_key
from bench_lib.record import HUNG, Kernel, Outcome, RequestName
from bench_lib.units import NS_PER_S

PREDICTIONS = Path("docs/what-obeys.toml")


class Expected(StrEnum):
    """What was predicted of a request."""

    RETURNS = "returns"
    SLOW = "slow"
    """It returns, but not at once: the median is at least `SLOW_NS`."""
    HANGS = "hangs"
    SPINS = "spins"
    """It hangs, and a thread uses CPU time meanwhile."""
    MAY_HANG = "may hang"
    """It returns or hangs; no measurement contradicts this."""


OUTCOMES = {
    Expected.RETURNS: frozenset({Outcome.RETURNED}),
    Expected.SLOW: frozenset({Outcome.RETURNED}),
    Expected.HANGS: HUNG,
    Expected.SPINS: frozenset({Outcome.SPINNING}),
}
"""The outcomes with which each prediction is right. `MAY_HANG` cannot be wrong."""

SLOW_NS = NS_PER_S // 10
"""The least time that counts as slow, in nanoseconds. Guests that are not stuck answer most
requests in less, and a cgroup above memory.high delays a vCPU for up to twenty times as long."""

_OPERATOR = (
    RequestName.STOP,
    RequestName.CTRL_C,
    RequestName.GDB_ATTACH,
    RequestName.PTRACE_INTERRUPT,
    RequestName.GDBSTUB_BREAK,
    RequestName.SIGTERM,
    RequestName.QUIT,
    RequestName.SIGUSR1,
    RequestName.REGISTERS,
    "sigint",
    "ptrace",
)

_MEMSLOT = (RequestName.PLUG_MEMORY, RequestName.DIRTY_RATE)

GROUPS = {
    **dict.fromkeys(map(str, _OPERATOR), "operator"),
    **dict.fromkeys(map(str, _MEMSLOT), "memslot"),
}
"""The group of requests that each request and each wake of the probe belongs to, if any."""


@dataclass(frozen=True)
class Reason:
    """A reason why a page does not arrive, as docs/what-obeys.toml has it.

    :ivar expected: what was predicted for each request or group, or for each of them by the first
        version for which it holds.
    :ivar scenarios: scenarios that stage it, each with a slash and the image if that is not gup.
    :ivar cases: cases of the probe that stage it, without the names of wakes.
    :ivar not_staged: why nothing stages it.
    """

    number: str
    name: str
    waits: str
    source: str
    expected: dict[str, Expected | dict[str, Expected]]
    scenarios: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    not_staged: str | None = None

    def prediction(self, request: str, kernel: Kernel) -> Expected | None:
        """Return what was predicted of a request under a kernel; None if nothing definite was."""
        found = self._predicted(request)
        if isinstance(found, dict):
            since = [each for each in found if version_key(each) <= version_key(kernel.release)]
            found = found[max(since, key=version_key)]
        return None if found is Expected.MAY_HANG else found

    def words(self, request: str) -> str:
        """Return what was predicted of a request under any kernel: hangs; returns from 6.2."""
        found = self._predicted(request)
        if not isinstance(found, dict):
            return found or "-"
        return "; ".join(
            what if since == "0" else f"{what} from {since}" for since, what in found.items()
        )

    def _predicted(self, request: str) -> Expected | dict[str, Expected] | None:
        return self.expected.get(request, self.expected.get(GROUPS.get(request, "")))


class _Predictions(msgspec.Struct):
    reason: list[Reason]


def reasons(path: Path) -> list[Reason]:
    """Read a file of predictions such as docs/what-obeys.toml."""
    return msgspec.toml.decode(path.read_bytes(), type=_Predictions).reason
