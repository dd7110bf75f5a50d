# SPDX-License-Identifier: BSD-3-Clause
"""The statistics, compared with closed forms, textbooks, scipy's tests and error rates."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench_lib.verdict import by_boot, effect, inference
from bench_lib.verdict.by_boot import Boot
from bench_lib.verdict.effect import Ratio

DEADLINE = 5_000


def boot(waits: Sequence[int], hung: Sequence[bool] = (), refused: Sequence[bool] = ()) -> Boot:
    """A boot whose trials were all answered, unless `hung` or `refused` are given."""
    none = (False,) * len(waits)
    return Boot(tuple(waits), tuple(hung) or none, tuple(refused) or none)


def boots(*medians: int, hung: bool = False) -> list[Boot]:
    """A boot of two trials for each of `medians`."""
    return [boot((each, each), (hung, hung)) for each in medians]


def ratio(base: Sequence[Boot], candidate: Sequence[Boot]) -> Ratio:
    """The ratio of two kernels that both answer."""
    found = effect.ratio(base, candidate)
    assert found is not None
    return found


REFUSING = [boot((5, 6), refused=(True, True))] * 4


HANGING = boots(*[DEADLINE] * 4, hung=True)
FINE = boots(10, 11, 12, 13)


def test_hangs_in_all_boots_of_one_kernel_are_the_most_extreme_permutation() -> None:
    assert inference.more_hangs(FINE, HANGING) == pytest.approx(1 / math.comb(8, 4))
    assert inference.slower(FINE, HANGING) == pytest.approx(1 / math.comb(8, 4))
    assert inference.more_hangs(HANGING, FINE) == 1
    assert inference.more_hangs(HANGING, HANGING) == 1


@given(st.integers(0, 5), st.integers(0, 5))
def test_with_one_trial_per_boot_the_test_of_hangs_is_fishers(base: int, candidate: int) -> None:
    def sample(hung: int) -> list[Boot]:
        return [boot((DEADLINE,), (number < hung,)) for number in range(5)]

    table = np.array([[candidate, 5 - candidate], [base, 5 - base]])
    expected = stats.fisher_exact(table, alternative="greater").pvalue
    assert inference.more_hangs(sample(base), sample(candidate)) == pytest.approx(expected)


@given(st.lists(st.integers(1, 10**6), min_size=10, max_size=10, unique=True))
def test_with_one_trial_per_boot_the_test_of_ranks_is_mann_and_whitneys(waits: list[int]) -> None:
    base, candidate = ([boot((wait,)) for wait in half] for half in (waits[:5], waits[5:]))
    expected = stats.mannwhitneyu(waits[5:], waits[:5], alternative="greater", method="exact")
    assert inference.slower(base, candidate) == pytest.approx(expected.pvalue)


def test_a_slowdown_within_the_tolerance_is_not_slower() -> None:
    twice = boots(20, 21, 22, 23)
    assert inference.slower(FINE, twice) == pytest.approx(1 / 70)
    assert inference.slower(FINE, twice, 2.0) > 0.05
    assert inference.slower(FINE, boots(30, 31, 32, 33), 2.0) == pytest.approx(1 / 70)


def test_trials_of_one_boot_count_no_more_than_one() -> None:
    """Ten times the trials are not more evidence if only boots vary."""
    many = [boot(each.waits_ns * 10, each.hung * 10) for each in HANGING]
    assert inference.more_hangs(FINE, many) == inference.more_hangs(FINE, HANGING)


def test_one_boot_is_no_evidence() -> None:
    assert inference.more_hangs(FINE, HANGING[:1]) == 1
    assert inference.slower(FINE[:1], HANGING) == 1


def test_no_answer_is_later_than_every_answer() -> None:
    gave_up_early = boots(5, 5, 5, 5, hung=True)
    assert inference.slower(FINE, gave_up_early) == 1
    assert inference.slower(boots(1, 2, 3, 4), gave_up_early) == pytest.approx(1 / 70)


@pytest.mark.parametrize("boots_", range(1, 30))
def test_the_bound_without_a_hanging_boot_has_a_closed_form(boots_: int) -> None:
    bound = 1 - 0.05 ** (1 / boots_)
    assert inference.bound_above(0, boots_) == pytest.approx(bound)
    assert inference.boots_to_bound(bound + 1e-9) == boots_
    assert inference.boots_to_bound(bound - 1e-9) == boots_ + 1


@pytest.mark.parametrize("hits, boots_", [(1, 4), (3, 10), (9, 10), (12, 40)])
def test_a_bound_leaves_five_per_cent_to_what_was_seen(hits: int, boots_: int) -> None:
    """By the definition of Clopper and Pearson."""
    above = inference.bound_above(hits, boots_)
    assert stats.binom.cdf(hits, boots_, above) == pytest.approx(0.05)
    below = inference.bound_below(hits, boots_)
    assert stats.binom.sf(hits - 1, boots_, below) == pytest.approx(0.05)


def test_a_bound_on_boots_counts_boots_not_trials() -> None:
    once = [boot((1, DEADLINE), (False, True)), *boots(1, 1, 1)]
    assert by_boot.hanging_boots(once) == 1


@pytest.mark.parametrize("hanging", [0.0, 0.1, 0.25, 0.4])
def test_the_number_of_boots_that_bound_a_share_is_the_smallest(hanging: float) -> None:
    boots_ = inference.boots_to_bound(0.5, hanging=hanging)
    assert isinstance(boots_, int)
    before, after = (
        inference.bound_above(math.ceil(hanging * each), each) for each in (boots_ - 1, boots_)
    )
    assert before > 0.5 >= after
    assert inference.boots_to_bound(hanging, hanging=0.5) == math.inf


def test_a_tail_that_medians_do_not_show_is_seen() -> None:
    tailed = [boot((10, 10, 10, 9_000))] * 5
    plain = [boot((10, 10, 10, 11))] * 5
    assert inference.slower(plain, tailed, 1.25) > 0.05
    assert inference.more_stalls(plain, tailed, 100) == pytest.approx(1 / 252)
    assert by_boot.stalling_boots(tailed, 100) == 5
    # A trial without an answer counts as a hang instead.
    assert by_boot.stalling_boots(HANGING, 100) == 0


def test_boots_are_cut_to_the_same_number_of_trials() -> None:
    many, few = [boot((1,) * 8)] * 3, [*boots(1, 1, 1), boot((1,))]
    ours, theirs = by_boot.even(many, few)
    assert {len(each) for each in ours} == {2}
    assert theirs == few


@pytest.mark.parametrize("sizes", [(8, 2), (2, 8), (8, 8)])
def test_boots_of_different_sizes_are_rarely_found_different(sizes: tuple[int, int]) -> None:
    """Most trials of both kernels hang, and larger boots show that better."""
    random = np.random.default_rng(2)

    def draw(size: int) -> list[Boot]:
        hung = [tuple(bool(each) for each in random.random(size) < 0.9) for _ in range(6)]
        return [boot((1,) * size, each) for each in hung]

    drawn = [by_boot.even(*map(draw, sizes)) for _ in range(400)]
    rejected = sum(inference.more_hangs(*each) <= 0.05 for each in drawn)
    # Three standard deviations above 5 %.
    assert rejected <= 33


def test_a_refusal_in_the_place_of_an_answer_is_worse_and_one_in_the_place_of_a_hang_is_not() -> (
    None
):
    assert inference.more_refusals(FINE, REFUSING) == pytest.approx(1 / math.comb(8, 4))
    assert inference.more_refusals(HANGING, REFUSING) == 1
    assert inference.more_refusals(REFUSING, FINE) == 1
    assert inference.more_refusals(REFUSING, REFUSING) == 1
    assert inference.more_hangs(FINE, REFUSING) == 1
    # A hang in the place of a refusal is one more hang.
    assert inference.more_hangs(REFUSING, HANGING) == pytest.approx(1 / math.comb(8, 4))


def test_the_times_of_refusals_are_never_among_those_of_answers() -> None:
    some = [boot((10, 1, 12), refused=(False, True, False)), *REFUSING]
    assert by_boot.unrefused(some) == [boot((10, 12))]
    assert by_boot.usual_wait_ns(some) == 11
    assert by_boot.usual_wait_ns(REFUSING) == math.inf
    assert effect.ratio(FINE, REFUSING) is None
    assert effect.ratio(REFUSING, FINE) is None
    assert inference.slower(FINE, REFUSING) == inference.slower(REFUSING, FINE) == 1
    mixed = [boot((*each.waits_ns, 9_000), refused=(False, False, True)) for each in FINE]
    assert effect.ratio(FINE, mixed) == effect.ratio(FINE, FINE)
    assert by_boot.stalling_boots(mixed, 100) == 0
    # But a late refusal is late for the operator too.
    assert by_boot.late_boots(mixed, 100) == 4


def test_a_hang_exceeds_every_limit() -> None:
    assert inference.beyond(HANGING, 10 * DEADLINE, 0.05) == pytest.approx(0.05**4)
    assert inference.beyond(FINE, 100, 0.05) == 1
    assert inference.beyond(FINE, 12, 0.05) == pytest.approx(0.05 * 4, rel=0.1)


# The two-sided critical values of Mann and Whitney at 5 %, plus one, from textbooks' tables.
@pytest.mark.parametrize(
    ("base", "candidate", "outside"),
    [(3, 3, 0), (4, 4, 1), (5, 5, 3), (6, 6, 6), (7, 7, 9), (8, 8, 14), (10, 10, 24), (4, 8, 5)],
)
def test_how_many_pairs_lie_outside(base: int, candidate: int, outside: int) -> None:
    found = ratio(boots(*[10] * base), boots(*range(1000, 1000 + candidate)))
    pairs = sorted(ours / 10 for ours in range(1000, 1000 + candidate) for _ in range(base))
    assert found.low == (pairs[outside - 1] if outside else 0)
    assert found.high == (pairs[-outside] if outside else math.inf)


def test_a_ratio_without_answers_of_one_kernel_has_one_bound() -> None:
    hangs_now = ratio(FINE, HANGING)
    assert hangs_now.low == pytest.approx(5000 / 13)
    assert hangs_now.at_least == pytest.approx(5000 / 11.5, rel=0.01)
    assert hangs_now.at_most == hangs_now.high == math.inf
    answered_now = ratio(HANGING, FINE)
    assert (answered_now.low, answered_now.at_least) == (0, 0)
    assert answered_now.high == pytest.approx(13 / 5000)


waits = st.lists(
    st.lists(st.tuples(st.integers(1, DEADLINE), st.booleans()), min_size=1, max_size=3),
    min_size=2,
    max_size=6,
).map(
    lambda drawn: [
        boot(
            tuple(DEADLINE if hung else wait for wait, hung in trials),
            tuple(hung for _, hung in trials),
        )
        for trials in drawn
    ]
)


@given(waits, waits)
def test_bounds_are_in_order_and_p_values_are_probabilities(
    base: list[Boot], candidate: list[Boot]
) -> None:
    found = ratio(base, candidate)
    assert 0 <= found.low <= found.at_least <= found.at_most <= found.high
    for test in (inference.more_hangs, inference.more_refusals, inference.slower):
        assert 0 < test(base, candidate) <= 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_adjusted_p_values_are_never_smaller_and_keep_their_order(p_values: list[float]) -> None:
    adjusted = inference.holm(p_values)
    assert all(after >= before for before, after in zip(p_values, adjusted, strict=True))
    assert min(adjusted) == min(1, len(p_values) * min(p_values))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[each] for each in order] == sorted(adjusted)


def test_holm_by_hand() -> None:
    assert inference.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_least_number_of_boots_with_which_a_test_can_reject() -> None:
    assert inference.boots_to_reject(1, 0.05) == 4  # with 3 the smallest p value is 1/20
    assert inference.boots_to_reject(9, 0.05) == 5


@pytest.mark.parametrize("hanging", [0.0, 0.3])
def test_kernels_that_refuse_equally_often_are_rarely_found_different(hanging: float) -> None:
    """Some boots refuse more often than others, with and without hangs."""
    random = np.random.default_rng(3)

    def draw() -> list[Boot]:
        found = []
        for share in random.beta(1, 1, 5):  # one per boot
            hung = [bool(each) for each in random.random(4) < hanging]
            refused = [bool(each) for each in random.random(4) < share]
            none = [not a and b for a, b in zip(hung, refused, strict=True)]
            found.append(boot((1,) * 4, hung, none))
        return found

    rejected = sum(inference.more_refusals(draw(), draw()) <= 0.05 for _ in range(1000))
    # Three standard deviations above 5 %.
    assert rejected <= 71


def test_equal_kernels_are_rarely_found_different() -> None:
    """A thousand pairs of samples from one distribution: at most 5 % reject."""
    random = np.random.default_rng(1)

    def draw() -> list[Boot]:
        level = 1e6 * random.lognormal(0, 0.5, 5)  # one per boot
        return [
            boot(tuple(int(each * noise) for noise in random.lognormal(0, 0.1, 2)))
            for each in level
        ]

    rejected = sum(inference.slower(draw(), draw()) <= 0.05 for _ in range(1000))
    # Three standard deviations above 5 %.
    assert rejected <= 71
