"""Ports without engines: texts say what they are worth, so that a test reads as a story.

`"think [0.9]\n\n"` is a step whose reward is 0.9; `"#### 4"` states the answer 4.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

from sphere_ray.config.method import MethodSettings, SearchSettings
from sphere_ray.method.ports import GenerateRequest, Grade, Score, ScoreRequest
from sphere_ray.method.prompts import question_messages
from sphere_ray.method.search import Search
from sphere_ray.method.sphere import World
from sphere_ray.records import Candidate, Problem, StageName, StopReason, Verdict

PROBLEM = Problem(problem_id="p1", question="What is 2 + 2?", answer="4", source="test")
BOUNDARY = "\n\n"
END_TOKEN = 0

Propose = Callable[[GenerateRequest], Sequence[Candidate]]


def candidate(text: str, stop: StopReason | None = None, logprob: float = -0.5) -> Candidate:
    """One token per character; stops at a boundary if it has one, else by end-of-sequence."""
    if stop is None:
        stop = StopReason.BOUNDARY if text.endswith(BOUNDARY) else StopReason.END
    end = (END_TOKEN,) if stop is StopReason.END else ()
    token_ids = tuple(map(ord, text)) + end
    return Candidate(text=text, token_ids=token_ids, logprob=logprob, stop_reason=stop)


def scored(text: str, reward: float | None, logprob: float = -0.5) -> Candidate:
    plain = candidate(text, logprob=logprob)
    return Candidate(
        text=text,
        token_ids=plain.token_ids,
        logprob=logprob,
        stop_reason=plain.stop_reason,
        reward=reward,
    )


def prefix_text(request: GenerateRequest) -> str:
    return "".join(map(chr, request.prefix_ids))


class Shuffle:
    """Yields to the event loop a seeded number of times, so that futures complete in any order."""

    def __init__(self, seed: int | None) -> None:
        self._random = random.Random(seed)
        self._most = 0 if seed is None else 9

    async def wait(self) -> None:
        for _ in range(self._random.randint(0, self._most)):
            await asyncio.sleep(0)


class FakeGenerator:
    def __init__(self, propose: Propose, model: str = "policy", order: int | None = None) -> None:
        self._propose = propose
        self._shuffle = Shuffle(order)
        self.model = model
        self.requests: list[GenerateRequest] = []
        self.decoded = 0

    async def generate(self, request: GenerateRequest) -> tuple[Candidate, ...]:
        self.requests.append(request)
        await self._shuffle.wait()
        candidates = tuple(self._propose(request))
        self.decoded += sum(len(c.token_ids) for c in candidates)
        return candidates


class FakeScorer:
    """Reads the reward from `[0.9]` in the text; costs `tokens` per step."""

    def __init__(self, order: int | None = None, tokens: int = 0) -> None:
        self._shuffle = Shuffle(order)
        self._tokens = tokens
        self.requests: list[ScoreRequest] = []
        self.decoded = 0

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        self.requests.append(request)
        await self._shuffle.wait()
        self.decoded += self._tokens * len(request.candidates)
        return tuple(
            Score(reward=_stated_reward(c.text), tokens=self._tokens) for c in request.candidates
        )


class FakeGrader:
    def __init__(self) -> None:
        self.responses: list[str] = []

    async def grade(self, response: str, gold: str) -> Grade:
        self.responses.append(response)
        found = re.findall(r"#### (\S+)", response)
        if not found:
            return Grade(verdict=Verdict.NO_ANSWER, answer=None)
        if found[-1] == "?":
            return Grade(verdict=Verdict.UNGRADABLE, answer="?")
        right = found[-1] == gold
        return Grade(verdict=Verdict.CORRECT if right else Verdict.WRONG, answer=found[-1])

    async def same(self, answer: str, other: str) -> bool:
        return Fraction(answer) == Fraction(other)


class FakeProgress:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, **counts: int) -> None:
        self.counts.update(counts)


def script(tree: dict[str, Sequence[str | Candidate]]) -> Propose:
    """Proposals by the text so far, repeated to the number asked for."""

    def propose(request: GenerateRequest) -> list[Candidate]:
        options = tree[prefix_text(request)]
        texts = [options[i % len(options)] for i in range(request.n)]
        return [text if isinstance(text, Candidate) else candidate(text) for text in texts]

    return propose


def always(*texts: str) -> Propose:
    """The same proposals everywhere."""
    return lambda request: [candidate(texts[i % len(texts)]) for i in range(request.n)]


def wander(request: GenerateRequest) -> list[Candidate]:
    """A random world that depends on the request alone: steps, answers, cuts, blanks."""
    draw = random.Random(request.seed)
    return [_wandering(draw, request) for _ in range(request.n)]


def _wandering(draw: random.Random, request: GenerateRequest) -> Candidate:
    reward = draw.choice((0.0, 0.25, 0.5, 0.51, 1.0))
    text = draw.choice(
        (
            f"we go on {draw.randint(0, 5)} [{reward}]\n\n",
            f"so [{reward}] #### {draw.choice((4, 4, 5, 6))}",
            BOUNDARY,
        )
    )
    made = candidate(text if request.stop else text.strip() or "#### 5", logprob=-draw.random())
    if draw.random() < 0.1 or len(made.token_ids) > request.max_tokens:
        cut = text[: request.max_tokens]
        return candidate(cut, StopReason.LENGTH, made.logprob)
    return made


def world(
    policy: Propose,
    small: Propose | None = None,
    *,
    settings: MethodSettings | None = None,
    order: int | None = None,
    iteration: int = 0,
) -> World:
    return World(
        settings=settings or MethodSettings(),
        policy=FakeGenerator(policy, order=order),
        small=FakeGenerator(small or policy, model="small", order=order),
        scorer=FakeScorer(order),
        grader=FakeGrader(),
        progress=FakeProgress(),
        run_seed=7,
        iteration=iteration,
    )


def search_of(
    propose: Propose,
    settings: SearchSettings | None = None,
    *,
    order: int | None = None,
    seed: int = 1,
    scorer: FakeScorer | None = None,
) -> Search:
    question = question_messages(PROBLEM.question, MethodSettings().prompts)
    return Search(
        problem=PROBLEM,
        stage=StageName.SELF_GENERATION,
        prompt=question,
        question=question,
        settings=settings or SearchSettings(num_candidates=2),
        generator=FakeGenerator(propose, order=order),
        scorer=scorer or FakeScorer(order),
        grader=FakeGrader(),
        progress=FakeProgress(),
        search_id="p1:0:self_generation",
        seed=seed,
    )


def _stated_reward(text: str) -> float:
    found = re.search(r"\[([\d.]+)\]", text)
    return float(found[1]) if found else 0.5
