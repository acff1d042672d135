"""Evaluation of one problem: a greedy answer and, where configured, samples."""

from collections.abc import Sequence
from dataclasses import dataclass

from sphere_ray.config.evaluation import EvaluationSettings
from sphere_ray.config.method import PromptSettings
from sphere_ray.errors import RowError
from sphere_ray.method.concurrency import gather_or_cancel
from sphere_ray.method.ports import GenerateRequest, Generator, Grade, Grader, Progress
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


async def evaluate_problem(problem: Problem, context: EvaluationContext) -> EvaluationRow:
    """Answer `problem` greedily once, and `num_samples` times at the evaluation's temperature.

    Raises:
        RowError: the problem cannot be answered; `failed_row` records that.
        EngineError, GraderError: from the ports, as they are.
    """
    samples, temperature = context.settings.num_samples, context.settings.temperature
    requests = [_request(problem, context, n=1, temperature=0.0)]
    if samples:
        requests.append(_request(problem, context, n=samples, temperature=temperature))
    answered = await gather_or_cancel(map(context.policy.generate, requests))
    candidates = [candidate for each in answered for candidate in each]
    grades = await gather_or_cancel(_grade(each, problem, context) for each in candidates)
    tokens = sum(len(candidate.token_ids) for candidate in candidates)
    context.progress.add(chains=len(candidates), tokens=tokens)
    greedy, grade = candidates[0], grades[0]
    cut = greedy.stop_reason is StopReason.LENGTH
    return EvaluationRow(
        problem_id=problem.problem_id,
        family=problem.family,
        level=problem.level,
        response=greedy.text,
        answer=grade.answer,
        verdict=grade.verdict,
        num_tokens=len(greedy.token_ids),
        finish_reason=FinishReason.LENGTH if cut else FinishReason.ANSWER,
        sample_verdicts=tuple(grade.verdict for grade in grades[1:]),
        sample_answers=await _alike(grades[1:], context.grader),
    )


async def _alike(grades: Sequence[Grade], grader: Grader) -> tuple[str | None, ...]:
    """The answers; one that the grader finds equal to an earlier one is written as that one.

    Then maj@k counts values and not spellings. Right answers are one vote anyway, and what could
    not be compared with the gold is not compared again.
    """
    spelt: dict[str, str] = {}
    wrong = (grade.answer for grade in grades if grade.verdict is Verdict.WRONG and grade.answer)
    for answer in dict.fromkeys(wrong):
        spelt[answer] = answer
        for known in dict.fromkeys(spelt.values()):
            if known != answer and await grader.same(answer, known):
                spelt[answer] = known
                break
    return tuple(grade.answer and spelt.get(grade.answer, grade.answer) for grade in grades)


def failed_row(problem: Problem, error: RowError) -> EvaluationRow:
    """The row of a problem that could not be answered: it counts neither as right nor as wrong."""
    return EvaluationRow(
        problem_id=problem.problem_id,
        family=problem.family,
        level=problem.level,
        error=f"{type(error).__name__}: {error}",
    )


def answered_by_both(
    first: Sequence[EvaluationRow], second: Sequence[EvaluationRow]
) -> tuple[list[EvaluationRow], list[EvaluationRow]]:
    """Return the rows of the problems that both models answered, ordered by problem id.

    Raises:
        ValueError: the two were asked different problems.
    """
    one, two = (sorted(rows, key=lambda row: row.problem_id) for rows in (first, second))
    if [row.problem_id for row in one] != [row.problem_id for row in two]:
        raise ValueError("two models are compared on different problems")
    both = [pair for pair in zip(one, two, strict=True) if all(row.error is None for row in pair)]
    return [row for row, _ in both], [row for _, row in both]


def _request(
    problem: Problem, context: EvaluationContext, *, n: int, temperature: float
) -> GenerateRequest:
    return GenerateRequest(
        problem_id=problem.problem_id,
        messages=question_messages(problem.question, context.prompts),
        n=n,
        temperature=temperature,
        max_tokens=context.settings.max_tokens,
        seed=derive_seed(context.run_seed, "evaluation", problem.problem_id, n),
    )


async def _grade(candidate: Candidate, problem: Problem, context: EvaluationContext) -> Grade:
    if candidate.stop_reason is StopReason.LENGTH:
        return Grade(verdict=Verdict.TRUNCATED, answer=None)
    return await context.grader.grade(candidate.text, problem.answer)
