"""Figures of models by set, against plain arithmetic; and the tables made of them."""

from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sphere_ray.records import EvaluationRow, Verdict
from sphere_ray.reporting.benchmark_summary import benchmark_summary
from sphere_ray.tables.benchmarks import print_benchmarks

RIGHT, WRONG = Verdict.CORRECT, Verdict.WRONG


def row(
    name: str, greedy: Verdict | None, samples: str = "", error: str | None = None
) -> EvaluationRow:
    """`samples` spells one sample a letter: R is right, others are wrong answers."""
    return EvaluationRow(
        problem_id=name,
        family=None,
        level=None,
        verdict=greedy,
        sample_verdicts=tuple(RIGHT if each == "R" else WRONG for each in samples),
        sample_answers=tuple(samples),
        error=error,
    )


BASE = [row("a", RIGHT, "RRxxyyyy"), row("b", WRONG, "Rxyzuvwq"), row("c", None, error="late")]
OTHER = [row("c", RIGHT, "R" * 8), row("b", RIGHT, "RRRRRRxx"), row("a", RIGHT, "RRRRxxxx")]


def test_each_figure_is_what_its_name_says() -> None:
    found = benchmark_summary({"m": BASE}, source="s", of=9, seed=0)
    score = found["models"]["m"]
    assert (found["problems"], found["of"], score["n"], score["failed"]) == (3, 9, 2, 1)
    assert (score["samples"], score["pass@1"], score["mean@k"]) == (8, 0.5, 3 / 16)
    assert score["maj@k"] == 0.5  # of b every answer has one vote, and the right one comes first
    hit = [sum(any(each) for each in combinations([n < c for n in range(8)], 4)) for c in (2, 1)]
    assert score["pass@4"] == pytest.approx(sum(hit) / comb(8, 4) / 2)
    assert score["pass@8"] == 1.0
    low, high = score["ci95"]
    assert (round(low, 4), round(high, 4)) == (0.0945, 0.9055)  # Wilson's interval of 1 in 2
    assert found["changes"] == {}


def test_models_are_paired_on_the_problems_both_answered_by_their_samples() -> None:
    found = benchmark_summary({"base": BASE, "other": OTHER}, source="s", of=None, seed=0)
    change = found["changes"]["other"]
    assert (change["of"], change["n"]) == ("mean@k", 2)
    assert change["difference"] == pytest.approx((4 + 6) / 16 - (2 + 1) / 16)
    assert change["p_value"] == pytest.approx(0.5)  # two gains: 2 of 4 patterns of signs
    assert found["models"]["other"]["n"] == 3


def test_greedy_answers_are_compared_where_one_of_two_did_not_sample() -> None:
    plain = [row(each.problem_id, each.verdict, error=each.error) for each in BASE]
    found = benchmark_summary({"base": plain, "other": OTHER}, source="s", of=None, seed=0)
    assert found["changes"]["other"]["of"] == "pass@1"
    assert found["changes"]["other"]["difference"] == 0.5
    score = found["models"]["base"]
    assert [score[name] for name in ("mean@k", "mean_ci95", "maj@k", "pass@4")] == [None] * 4


@given(st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from("Rxy"), min_size=4, max_size=4))))
def test_figures_are_shares_and_more_draws_find_no_less(
    drawn: list[tuple[bool, list[str]]],
) -> None:
    rows = [
        row(str(n), RIGHT if greedy else WRONG, "".join(samples))
        for n, (greedy, samples) in enumerate(drawn)
    ]
    if not rows:
        with pytest.raises(ValueError, match="no problem"):
            benchmark_summary({"m": rows}, source="s", of=None, seed=0)
        return
    score = benchmark_summary({"m": rows}, source="s", of=None, seed=0)["models"]["m"]
    low, high = score["ci95"]
    assert 0 <= low <= score["pass@1"] <= high <= 1
    assert score["mean@k"] <= score["pass@4"] + 1e-12
    assert (score["samples"], score["pass@8"]) == (4, None)


def printed(**answers: list[EvaluationRow]) -> str:
    console = Console(record=True, width=140)
    summary = benchmark_summary(answers, source="s", of=30, seed=0)
    print_benchmarks({"aime24": summary}, console, "endpoint: 7 requests")
    return console.export_text()


def test_the_tables_name_sets_models_figures_and_what_is_missing() -> None:
    text = printed(base=BASE, other=OTHER)
    for told in (
        *("aime24", "base", "other", "50.0", "9.5 to 90.5", "18.8", "mean@k %", "pass@8 %"),
        *("aime24: 3 of its 30 problems", "aime24, base: 1 not answered", "endpoint: 7 requests"),
        *("Changes", "+43.8", "0.5"),
    ):
        assert told in text
    greedy = [row("a", RIGHT), row("b", WRONG)]
    alone = printed(base=greedy)
    assert "mean@k" not in alone
    assert "Changes" not in alone
    nothing = Console(record=True)
    print_benchmarks({}, nothing)
    assert nothing.export_text() == ""
