"""Evaluation of one problem: a greedy answer and, if asked for, samples; pure over the ports."""

import asyncio
from dataclasses import dataclass

from sphere_ray.config.method import PromptSettings
from sphere_ray.config.run import EvaluationSettings
from sphere_ray.method.ports import GenerateRequest, Generator, Grader, Progress
from sphere_ray.method.prompts import question_messages
from sphere_ray.method.seeds import derive_seed
from sphere_ray.records import Candidate, EvaluationRow, FinishReason, Problem, StopReason, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationContext:
    """What an evaluation works with; unlike a search it needs no scorer."""

    settings: EvaluationSettings
    prompts: PromptSettings
    policy: Generator
    grader: Grader
    progress: Progress
    run_seed: int


async def evaluate_problem(problem: Problem, exam: EvaluationContext) -> EvaluationRow:
    """Answer `problem` greedily once and at the evaluation's temperature `num_samples` times."""
    settings = exam.settings
    greedy_only = settings.num_samples == 0
    (greedy,), samples = await asyncio.gather(
        _answer(problem, exam, n=1, temperature=0.0),
        _nothing()
        if greedy_only
        else _answer(problem, exam, n=settings.num_samples, temperature=settings.temperature),
    )
    (verdict, answer), *graded = await asyncio.gather(
        *(_grade(candidate, problem, exam) for candidate in (greedy, *samples))
    )
    tokens = sum(len(candidate.token_ids) for candidate in (greedy, *samples))
    exam.progress.add(chains=1 + len(samples), tokens=tokens)
    return EvaluationRow(
        problem_id=problem.problem_id,
        family=problem.family,
        level=problem.level,
        response=greedy.text,
        answer=answer,
        verdict=verdict,
        num_tokens=len(greedy.token_ids),
        finish_reason=(
            FinishReason.LENGTH if greedy.stop_reason is StopReason.LENGTH else FinishReason.ANSWER
        ),
        sample_verdicts=tuple(verdict for verdict, _ in graded),
        sample_answers=tuple(answer for _, answer in graded),
    )


async def _nothing() -> tuple[Candidate, ...]:
    return ()


async def _answer(
    problem: Problem, exam: EvaluationContext, *, n: int, temperature: float
) -> tuple[Candidate, ...]:
    return await exam.policy.generate(
        GenerateRequest(
            problem_id=problem.problem_id,
            messages=question_messages(problem.question, exam.prompts),
            n=n,
            temperature=temperature,
            max_tokens=exam.settings.max_tokens,
            seed=derive_seed(exam.run_seed, "evaluation", problem.problem_id, n),
        )
    )


async def _grade(
    candidate: Candidate, problem: Problem, exam: EvaluationContext
) -> tuple[Verdict, str | None]:
    if candidate.stop_reason is StopReason.LENGTH:
        return Verdict.TRUNCATED, None
    grade = await exam.grader.grade(candidate.text, problem.answer)
    return grade.verdict, grade.answer
