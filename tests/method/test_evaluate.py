import asyncio
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.evaluation import EvaluationSettings
from sphere_ray.config.method import PromptSettings
from sphere_ray.errors import DeadlineExceededError, RequestError
from sphere_ray.method.evaluate import (
    EvaluationContext,
    answered_by_both,
    evaluate_problem,
    failed_row,
)
from sphere_ray.method.metrics import maj_at_k
from sphere_ray.method.ports import Grade
from sphere_ray.records import EvaluationRow, FinishReason, StopReason, Verdict

from .fakes import PROBLEM, FakeGenerator, FakeGrader, FakeProgress, always, candidate


def context(policy, num_samples=0):
    return EvaluationContext(
        settings=EvaluationSettings(num_samples=num_samples, temperature=0.7, max_tokens=64),
        prompts=PromptSettings(),
        policy=policy,
        grader=FakeGrader(),
        progress=FakeProgress(),
        run_seed=0,
    )


@pytest.mark.parametrize(("text", "verdict"), [("#### 4", "correct"), ("#### 5", "wrong")])
async def test_greedy_answer_and_samples_are_graded(text, verdict):
    policy = FakeGenerator(always(text))
    there = context(policy, num_samples=3)
    row = await evaluate_problem(PROBLEM, there)
    assert (row.verdict, row.sample_verdicts) == (verdict, (verdict,) * 3)
    assert (row.answer, row.sample_answers) == (text[-1], (text[-1],) * 3)
    assert (row.finish_reason, row.num_tokens) == (FinishReason.ANSWER, len(text) + 1)
    assert row.error is None
    assert [(r.n, r.temperature) for r in policy.requests] == [(1, 0.0), (3, 0.7)]
    assert there.progress.counts == {"chains": 4, "tokens": policy.decoded}


async def test_an_answer_that_was_cut_is_truncated_whatever_it_says():
    policy = FakeGenerator(lambda _: [candidate("#### 4", StopReason.LENGTH)])
    row = await evaluate_problem(PROBLEM, context(policy))
    assert (row.verdict, row.answer) == (Verdict.TRUNCATED, None)
    assert (row.finish_reason, row.sample_verdicts) == (FinishReason.LENGTH, ())


async def test_a_refused_greedy_answer_does_not_leave_the_samples_decoding():
    class Refusing:
        model = "policy"

        async def generate(self, request):
            if request.n == 1:
                raise RequestError("the prompt is too long")
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    with pytest.raises(RequestError):
        await evaluate_problem(PROBLEM, context(Refusing(), num_samples=2))
    assert asyncio.all_tasks() == before


def test_a_problem_that_cannot_be_answered_has_no_verdict():
    row = failed_row(PROBLEM, DeadlineExceededError("not finished within 5 s"))
    assert (row.problem_id, row.error) == ("p1", "DeadlineExceededError: not finished within 5 s")
    assert (row.verdict, row.finish_reason) == (None, None)


def test_models_are_compared_on_the_problems_both_answered():
    def row(problem_id, error=None):
        return EvaluationRow(problem_id=problem_id, family=None, level=None, error=error)

    one = [row("c"), row("a"), row("b", "RequestError: refused")]
    other = [row("a"), row("b"), row("c")]
    first, second = answered_by_both(one, other)
    assert [r.problem_id for r in first] == [r.problem_id for r in second] == ["a", "c"]
    with pytest.raises(ValueError, match="different problems"):
        answered_by_both(one, other[:2])


async def test_the_majority_counts_values_and_not_spellings():
    said = iter(["4", "1/2", "0.5", "4", "2/4", "?", "7"])
    policy = FakeGenerator(
        lambda request: [candidate(f"#### {next(said)}") for _ in range(request.n)]
    )
    row = await evaluate_problem(PROBLEM, context(policy, num_samples=6))
    assert row.sample_answers == ("1/2", "1/2", "4", "1/2", "?", "7")
    right = [verdict is Verdict.CORRECT for verdict in row.sample_verdicts]
    assert right == [False, False, True, False, False, False]
    assert not maj_at_k(row.sample_answers, right)


class ByValue(FakeGrader):
    async def grade(self, response, gold):
        answer = response.removeprefix("#### ")
        right = Fraction(answer) == Fraction(gold)
        return Grade(verdict=Verdict.CORRECT if right else Verdict.WRONG, answer=answer)


@given(
    st.lists(
        st.tuples(st.integers(2, 5), st.sampled_from(["{}", "{}.0", "{}/1", "0{}"])), min_size=1
    )
)
def test_maj_at_k_is_the_commonest_value(drawn):
    said = [spelling.format(value) for value, spelling in drawn]
    texts = iter(["1", *said])
    policy = FakeGenerator(lambda r: [candidate(f"#### {next(texts)}") for _ in range(r.n)])
    there = replace(context(policy, num_samples=len(said)), grader=ByValue())
    row = asyncio.run(evaluate_problem(PROBLEM, there))
    right = [verdict is Verdict.CORRECT for verdict in row.sample_verdicts]
    values = [value for value, _ in drawn]
    commonest = max(dict.fromkeys(values), key=values.count)  # of equals the first
    assert maj_at_k(row.sample_answers, right) is (commonest == int(PROBLEM.answer))
