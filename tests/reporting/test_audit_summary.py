"""How far grader and scorer agree with people, counted by hand on a few lines."""

from datetime import UTC, datetime
from math import sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.records import Verdict
from sphere_ray.reporting.audit_summary import agreement, audit_summary
from sphere_ray.reward.judgements import AuditLine, Judged


def line(decision: Any, *sides: Judged, pair: str | None = None, chain: str | None = None) -> Any:
    return AuditLine(
        when=datetime.now(UTC),
        who="ann",
        iteration=0,
        problem_id="p",
        pair_id=pair,
        chain_id=chain,
        stage="self_generation",
        decision=decision,
        sides=sides,
    )


def side(name: str, verdict: Verdict | None, reward: float | None) -> Judged:
    return Judged(chain_id=name, text_id=f"t-{name}", verdict=verdict, reward=reward)


def pair(name: str, decision: Any, chosen: float | None, rejected: float | None) -> AuditLine:
    one = side(f"{name}+", Verdict.CORRECT, chosen)
    return line(decision, one, side(f"{name}-", Verdict.WRONG, rejected), pair=name)


def step_pair(name: str, decision: Any, chosen: float, rejected: float) -> AuditLine:
    sides = (
        Judged(chain_id=name, text_id=f"{name}{value}", reward=value)
        for value in (chosen, rejected)
    )
    return line(decision, *sides, pair=name)


def test_agreement_by_hand() -> None:
    lines = [
        pair("a", "accept", 0.9, 0.2),  # grader twice right; the scorer prefers the right side
        pair("b", "accept", 0.1, 0.2),  # the scorer prefers the wrong side
        pair("c", "accept", 0.5, 0.5),  # a tie
        pair("d", "reject", 0.9, 0.2),  # says nothing about right or wrong
        pair("e", "accept", 0.9, 0.2),
        line("wrong", side("e+", Verdict.CORRECT, 0.9), chain="e+"),  # the grader erred here
        pair("f", "comment", 0.9, 0.2),
        line("wrong", side("g", Verdict.TIMEOUT, 0.9), chain="g"),  # the grader said nothing
        line("wrong", side("h", Verdict.TRUNCATED, 0.9), chain="h"),  # that is not right
        pair("i", "accept", None, 0.2),
        step_pair("s", "accept", 0.9, 0.2),
        step_pair("t", "reject", 0.9, 0.2),
    ]
    found = audit_summary(lines)
    assert found is not None
    assert (found["accepted"], found["rejected"], found["verdicts"]) == (6, 2, 3)
    # Sides of a, b, c, i; e- right by the accepted pair, e+ erred; h.
    assert (found["grader"]["agreed"], found["grader"]["n"]) == (10, 11)
    # a, s agree; b, t do not. The pair e has no right side any more.
    assert (found["scorer"]["agreed"], found["scorer"]["n"]) == (2, 4)
    assert found["ties"] == 1


def test_a_pair_that_people_turn_round_counts_against_the_scorer() -> None:
    lines = [
        pair("a", "reject", 0.9, 0.2),
        line("wrong", side("a+", Verdict.CORRECT, 0.9), chain="a+"),
        line("correct", side("a-", Verdict.WRONG, 0.2), chain="a-"),
    ]
    found = audit_summary(lines)
    assert found is not None
    assert (found["grader"]["agreed"], found["grader"]["n"]) == (0, 2)
    assert (found["scorer"]["agreed"], found["scorer"]["n"]) == (0, 1)


def test_nothing_decided_has_no_share() -> None:
    assert audit_summary([]) is None
    found = audit_summary([pair("a", "comment", 0.9, 0.2)])
    assert found is not None
    assert found["grader"] == {"n": 0, "agreed": 0, "share": None, "ci95": None}


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_the_interval_is_wilsons(same: list[bool]) -> None:
    """Wilson 1927: the shares whose standard score to the observed one is 1.96 at most."""
    n, p, z = len(same), sum(same) / len(same), 1.959963984540054
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    found = agreement(same)
    assert found["share"] == pytest.approx(p)
    assert found["ci95"] == pytest.approx([middle - half, middle + half], abs=1e-9)
