import pytest

from bench_lib.errors import NotStuck
from bench_lib.record import Outcome
from bench_lib.threads import ThreadState
from bench_lib.trial import proof
from tests.make import STUCK

SECOND = 1_000_000_000


def _thread(
    cpu_ns: int, state: str = "S", stack: tuple[str, ...] = STUCK, *, called: bool = True
) -> ThreadState:
    return ThreadState(1, state, "0", stack, cpu_ns, called)


@pytest.mark.parametrize("state", ["S", "D"])
def test_a_guest_whose_threads_sleep_in_the_fault_is_asleep(state: str) -> None:
    before, after = [_thread(5, state)], [_thread(5 + SECOND // 100, state)]
    assert proof.how_it_hung(before, after, 5 * SECOND) is Outcome.ASLEEP


def test_one_vcpu_left_in_the_fault_is_enough() -> None:
    after = [_thread(0, stack=()), _thread(0)]
    assert proof.how_it_hung([_thread(0), _thread(0)], after, SECOND) is Outcome.ASLEEP


def test_a_guest_with_one_thread_that_burns_its_time_spins() -> None:
    before, after = [_thread(0), _thread(0)], [_thread(0), _thread(4 * SECOND, "R", ())]
    assert proof.how_it_hung(before, after, 5 * SECOND) is Outcome.SPINNING


def test_threads_that_spin_on_one_cpu_spin_together() -> None:
    before = [_thread(0), _thread(0)]
    after = [_thread(49 * SECOND // 100, "R", ()), _thread(49 * SECOND // 100, "R", ())]
    assert proof.how_it_hung(before, after, SECOND) is Outcome.SPINNING


def test_a_guest_that_runs_and_was_not_called_does_not_spin() -> None:
    """Whatever keeps the answer back, it is no vCPU."""
    after = [_thread(5 * SECOND, "R", (), called=False)]
    with pytest.raises(NotStuck):
        proof.how_it_hung([_thread(0, "R", ())], after, 5 * SECOND)


@pytest.mark.parametrize("state", ["S", "D"])
def test_a_guest_that_is_stuck_and_was_not_called_does_not_hang(state: str) -> None:
    """As in every outage, before anything is asked."""
    same = [_thread(5, state, called=False)]
    with pytest.raises(NotStuck):
        proof.how_it_hung(same, same, 5 * SECOND)


def test_an_answer_that_something_else_keeps_back_is_no_measurement() -> None:
    with pytest.raises(NotStuck, match="no vCPU that was called sleeps or spins"):
        proof.how_it_hung([_thread(0)], [_thread(0, stack=("futex_wait_queue",))], SECOND)
