"""A strong model behind an OpenAI-compatible endpoint answers benchmarks: same prompts and grader.

An answer that the endpoint did not give is an error of the row and never wrong.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from sphere_ray.config import RunSettings
from sphere_ray.config.endpoint import EndpointSettings
from sphere_ray.engines.endpoint import EndpointClient
from sphere_ray.errors import EngineError, RequestError, RowError
from sphere_ray.grading import GraderPool
from sphere_ray.method.concurrency import gather_or_cancel
from sphere_ray.method.evaluate import EvaluationContext, evaluate_problem, failed_row
from sphere_ray.method.ports import GenerateRequest, Progress
from sphere_ray.records import Candidate, EvaluationRow, Problem, StopReason


class EndpointGenerator:
    """The port `Generator`, for whole answers; it knows neither token ids nor log-probs."""

    def __init__(self, settings: EndpointSettings, progress: Progress) -> None:
        """Send nothing yet.

        Raises:
            EngineError: the environment variable of the key is not set.
        """
        self.model = settings.model
        self._client = EndpointClient(settings, progress, role="endpoint", setting="--endpoint")

    async def generate(self, request: GenerateRequest) -> tuple[Candidate, ...]:
        """See `Generator.generate`; each sample is a request of its own, and kept on its own."""
        return tuple(
            await gather_or_cancel(self._sample(request, number) for number in range(request.n))
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _sample(self, request: GenerateRequest, number: int) -> Candidate:
        body = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
        }
        question = {"body": body, "sample": number}
        kept = await self._client.recall(question)
        if kept is None:
            kept = await self._answer(body)
            await self._client.keep(question, kept)
        answer = json.loads(kept)
        stop = StopReason.LENGTH if answer["cut"] else StopReason.END
        return Candidate(text=answer["text"], token_ids=(), logprob=0.0, stop_reason=stop)

    async def _answer(self, body: dict[str, object]) -> str:
        choice = await self._client.ask(body)
        cut, text = choice.finish_reason == "length", choice.message.content or ""
        if not cut and (choice.finish_reason != "stop" or not text):
            reason = choice.message.refusal or choice.finish_reason
            raise RequestError(f"the endpoint gave no answer ({reason})")
        return json.dumps({"text": text, "cut": cut})


async def answers_of_endpoint(
    endpoint: EndpointSettings,
    sets: Mapping[str, tuple[RunSettings, Sequence[Problem]]],
    counts: Counter[str],
) -> dict[str, list[EvaluationRow]]:
    """The graded answers of the endpoint to each set, asked with the settings of that set.

    Requests and tokens are added to `counts`.

    Raises:
        EngineError: it serves nothing, or more of a set failed than `rollout.max_failed_share`.
        GraderError: the grader is lost.
    """
    progress = _Counts(counts)
    first, _ = next(iter(sets.values()))
    generator, grader = EndpointGenerator(endpoint, progress), GraderPool(first.grading)
    try:
        await grader.self_test()
        found = {}
        for name, (settings, problems) in sets.items():
            context = EvaluationContext(
                settings=settings.evaluation,
                prompts=settings.method.prompts,
                policy=generator,
                grader=grader,
                progress=progress,
                run_seed=settings.seed,
            )
            rows = await gather_or_cancel(_row(problem, context) for problem in problems)
            _refuse_failures(rows, settings.rollout.max_failed_share)
            found[name] = list(rows)
        return found
    finally:
        grader.close()
        await generator.close()


async def _row(problem: Problem, context: EvaluationContext) -> EvaluationRow:
    try:
        return await evaluate_problem(problem, context)
    except RowError as error:
        return failed_row(problem, error)


def _refuse_failures(rows: Sequence[EvaluationRow], allowed: float) -> None:
    errors = Counter(row.error for row in rows if row.error is not None)
    if errors.total() > allowed * len(rows) or errors.total() == len(rows):
        reason, _ = errors.most_common(1)[0]
        too_long = "max_tokens" in reason and "nsupported" not in reason
        hint = " (lower --max-tokens)" if too_long else ""
        raise EngineError(
            f"{errors.total()} of {len(rows)} problems failed, more than rollout.max_failed_share "
            f"allows (never all); most often: {reason}{hint}; the same command again asks only for "
            "the answers that are missing"
        )


class _Counts:
    """The port `Progress`."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts

    def add(self, **counts: int) -> None:
        self._counts.update(counts)
