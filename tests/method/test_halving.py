"""Successive halving on tables of scores: who is tried, at what cost, and who is chosen."""

import itertools
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.method.halving import DEFAULT, Rung, halve

COARSE = st.integers(0, 4).map(float)  # so that there are ties
SCORES = st.lists(st.none() | COARSE, min_size=1, max_size=20)


def tried(scores):
    """The choice among candidates whose score no effort changes, and the rungs it took."""
    rungs = []

    def trial(rung):
        rungs.append(rung)
        return {number: scores[number] for number in rung.candidates}

    return halve(len(scores), trial), rungs


@given(SCORES)
def test_the_best_is_chosen_if_every_rung_tells_the_truth(scores):
    chosen, _ = tried(scores)
    alive = [(-score, number) for number, score in enumerate(scores) if score is not None]
    assert chosen == (min(alive)[1] if alive else None)


@given(st.data())
def test_the_choice_scores_no_less_than_the_default_in_the_last_rung(data):
    """Whatever the earlier rungs said of it."""
    rungs = []

    def trial(rung):
        scores = {number: data.draw(COARSE) for number in rung.candidates}
        rungs.append((rung, scores))
        return scores

    chosen = halve(data.draw(st.integers(1, 20)), trial)
    last, scores = rungs[-1]
    assert last.share == 1
    assert scores[chosen] >= scores[DEFAULT]


@given(SCORES)
def test_each_rung_halves_who_is_left_and_doubles_the_effort(scores):
    _, rungs = tried(scores)
    assert rungs[0].candidates == tuple(range(len(scores)))
    for one, other in itertools.pairwise(rungs):
        assert set(other.candidates) < set(one.candidates)
        assert 2 * len(other.candidates) <= len(one.candidates) + 1
        assert other.share >= 2 * one.share
    cost = [rung.share * len(rung.candidates) for rung in rungs]
    assert max(cost) <= 2  # no rung costs more than two full trials


@given(SCORES)
def test_who_is_out_is_not_tried_again(scores):
    _, rungs = tried(scores)
    for rung in rungs[1:]:
        assert all(scores[number] is not None for number in rung.candidates)
    if rungs[-1].last:
        assert (DEFAULT in rungs[-1].candidates) == (scores[DEFAULT] is not None or len(rungs) == 1)


def test_eight_candidates_need_three_rungs():
    chosen, rungs = tried([1.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0, 5.0])
    quarter, half, whole = Fraction(1, 4), Fraction(1, 2), Fraction(1)
    assert chosen == 2
    assert [(rung.candidates, rung.share) for rung in rungs] == [
        (tuple(range(8)), quarter),
        ((0, 2, 4, 6), half),
        ((0, 2), whole),
    ]


@given(st.integers(1, 100))
def test_parts_are_whole_and_never_none(full):
    for halvings in range(4):
        rung = Rung(candidates=(0,), share=Fraction(1, 2**halvings))
        part = rung.part_of(full)
        assert 1 <= part <= full
        assert part - 1 < full / 2**halvings <= part
