"""What an operator asks of a guest, and how long each took.

The clock is read where the first byte leaves and where the reply arrives (`guest.request_line`),
for whatever lies between there and here would be ours and not the host's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from bench_lib.deadline import Deadline
from bench_lib.guest.qemu import Guest
from bench_lib.record import Request


@dataclass(frozen=True)
class Reply:
    """What the operator got. :ivar refusal: the error that answered it, if one did."""

    latency_ns: int
    refusal: str | None = None


async def stop(guest: Guest, deadline: Deadline) -> Reply | None:
    """QMP `stop`: from its first byte written to its reply read.

    pause_all_vcpus() in QEMU signals each vCPU thread and waits without a limit until all have
    left the kernel; with no disk there is nothing else that the reply waits for.
    """
    answer = await guest.requests.ask("stop", deadline)
    if answer is None:
        return None
    return Reply(answer.answered_ns - answer.sent_ns, answer.error)


REQUESTS: dict[Request, Callable[[Guest, Deadline], Coroutine[Any, Any, Reply | None]]] = {
    Request.STOP: stop,
}
"""How each is made. The reply, or None if the deadline passed without one."""
