"""Evaluation of one problem, with a scripted policy and the real grader."""

import pytest

from sphere_ray.config.method import PromptSettings
from sphere_ray.config.run import EvaluationSettings
from sphere_ray.grading import GraderPool
from sphere_ray.method.ports import GenerateRequest
from sphere_ray.records import Candidate, FinishReason, StopReason, Verdict
from sphere_ray.rollout.evaluate import EvaluationContext, evaluate_problem
from tests.simulated_problems import simulated_problem


class Silent:
    def add(self, **counts: int) -> None:
        pass


class Scripted:
    """Says the same to everyone."""

    model = "scripted"

    def __init__(self, text: str, stop_reason: StopReason = StopReason.END) -> None:
        self._candidate = Candidate(
            text=text, token_ids=(1, 2, 3), logprob=-1.0, stop_reason=stop_reason
        )

    async def generate(self, request: GenerateRequest) -> tuple[Candidate, ...]:
        return (self._candidate,) * request.n


def exam(policy: object, num_samples: int = 0) -> EvaluationContext:
    return EvaluationContext(
        settings=EvaluationSettings(num_samples=num_samples, max_tokens=64),
        prompts=PromptSettings(),
        policy=policy,  # type: ignore[arg-type]
        grader=GraderPool(),
        progress=Silent(),
        run_seed=0,
    )


@pytest.mark.parametrize(("off", "verdict"), [(0, Verdict.CORRECT), (1, Verdict.WRONG)])
async def test_greedy_answer_and_samples_are_graded(off: int, verdict: Verdict) -> None:
    problem = simulated_problem(3)
    policy = Scripted(f"Let us see.\n#### {int(problem.answer) + off}")
    row = await evaluate_problem(problem, exam(policy, num_samples=4))
    assert row.verdict is verdict
    assert row.sample_verdicts == (verdict,) * 4
    assert row.finish_reason is FinishReason.ANSWER
    assert row.num_tokens == 3


async def test_an_answer_that_was_cut_is_truncated_whatever_it_says() -> None:
    problem = simulated_problem(3)
    policy = Scripted(f"#### {problem.answer}", StopReason.LENGTH)
    row = await evaluate_problem(problem, exam(policy))
    assert row.verdict is Verdict.TRUNCATED
    assert row.finish_reason is FinishReason.LENGTH
    assert row.answer is None
    assert row.sample_verdicts == ()
