"""Records for tests of what is done with them."""

from __future__ import annotations

from bench_lib.record import (
    After,
    Before,
    Evidence,
    FaultPath,
    Host,
    Kernel,
    Outcome,
    Record,
    Request,
    Scenario,
    Shape,
    Stage,
)

KERNEL = Kernel("6.1.0-56-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.180-1 (2026-10-02)")
STUCK = ("handle_userfault", "__get_user_pages", "hva_to_pfn")
MS = 1_000_000


def record(
    outcome: Outcome = Outcome.RETURNED,
    latency_ms: float | None = 1.0,
    *,
    scenario: Scenario = Scenario.BLACKHOLE,
    kernel: Kernel = KERNEL,
    seq: int = 1,
    reason: str | None = None,
) -> Record:
    """A plausible record; the latency goes with the outcome."""
    has_latency = outcome in {Outcome.RETURNED, Outcome.REFUSED}
    before = Before(11, 0, "S", "handle_userfault", STUCK, FaultPath.GUP)
    after = After(11, 0, "S", "futex_wait_queue", (), FaultPath.NONE, 1000)
    return Record(
        run_id="0123456789ab",
        seq=seq,
        request=Request.STOP,
        scenario=scenario,
        shape=Shape(),
        outcome=outcome,
        reason=reason,
        latency_ns=round(latency_ms * MS) if has_latency and latency_ms is not None else None,
        deadline_ns=5_000 * MS,
        kernel=kernel,
        boot_id="00000000-0000-0000-0000-000000000000",
        host=Host("native", "kvm", "somewhere"),
        qemu="7.2.22",
        outage="netem",
        evidence=Evidence((before,), (after,)),
        stages=(Stage("start", 0, 80 * MS), Stage("release", 300 * MS, 350 * MS)),
        started="2026-11-22T20:00:00.000+00:00",
    )
