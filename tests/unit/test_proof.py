from bench_lib.record import Outcome
from bench_lib.threads import ThreadState
from bench_lib.trial import proof

SECOND = 1_000_000_000


def _thread(cpu_ns: int) -> ThreadState:
    return ThreadState(tid=1, state="S", wchan="0", stack=(), cpu_ns=cpu_ns)


def test_a_guest_whose_threads_burn_nothing_sleeps() -> None:
    outcome = proof.how_it_hung([_thread(5)], [_thread(5 + SECOND // 100)], 5 * SECOND)
    assert outcome is Outcome.ASLEEP


def test_a_guest_with_one_thread_that_burns_its_time_spins() -> None:
    before, after = [_thread(0), _thread(0)], [_thread(0), _thread(4 * SECOND)]
    assert proof.how_it_hung(before, after, 5 * SECOND) is Outcome.SPINNING
