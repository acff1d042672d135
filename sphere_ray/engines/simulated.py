"""Engines without a model: seeded, cheap, with knobs for accuracy and latency.

They solve sums. A simulated policy reads `a + b + ...` in the question, walks towards the total in
steps that state a running total, and errs at a rate that depends on the problem; every step says
which total it claims, so a simulated reward model can compare it with the truth. Token ids are
UTF-8 bytes. Outputs depend on the request alone: equal bits in any order, in any process.
"""

import asyncio
import re
from dataclasses import dataclass
from hashlib import blake2b
from statistics import NormalDist

from sphere_ray.config.engines import EngineSettings, EngineSpec, SimulationSettings
from sphere_ray.config.scorers import SimulatedRewardSettings
from sphere_ray.engines.engine import EngineStats, Request
from sphere_ray.errors import EngineError
from sphere_ray.method.ports import GenerateRequest, Score, ScoreRequest
from sphere_ray.records import Candidate, StopReason
from sphere_ray.reward.sources import RewardSource

END_OF_SEQUENCE = 256
BOUNDARY = "\n\n"
RIGHT_REWARD, WRONG_REWARD = 0.85, 0.15
"""Means of the rewards of right and wrong steps, before noise."""

_SUM = re.compile(r"\d{1,9}(?: ?\+ ?\d{1,9}){1,63}")
_CLAIM = re.compile(r"Step (\d{1,6}) of (\d{1,6}): [a-z ]{1,80}(\d{1,18})")
_ANSWER = re.compile(r"#### (\d{1,18})")
_PHRASES = (
    "adding the next part gives a running total of",
    "so far everything taken together makes",
    "now the count has grown to",
    "carrying on from there we have reached",
)


@dataclass(frozen=True, slots=True)
class _Claim:
    """The running total stated by step `index` of `steps`."""

    index: int
    steps: int
    value: int


class _SimulatedEngine:
    """An `Engine` that has nothing to load, is never dead, and counts what it is told."""

    def __init__(self, spec: EngineSpec) -> None:
        """Take the name of the model."""
        self.model = spec.name
        self._running = self._generated = self._prompted = 0

    async def start(self) -> None:
        """See `Engine.start`."""

    async def reload(self, spec: EngineSpec) -> None:
        """See `Engine.reload`; only the name changes."""
        self.model = spec.name

    async def check(self) -> None:
        """See `Engine.check`."""

    async def close(self) -> None:
        """See `Engine.close`."""

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        return EngineStats(
            running=self._running,
            generated_tokens=self._generated,
            prompt_tokens=self._prompted,
        )


class SimulatedGenerator(_SimulatedEngine):
    """The port `Generator`, and an `Engine`.

    A problem's own accuracy is Beta-distributed around `accuracy`. A question without a sum gets
    an answer that is practically never right.
    """

    def __init__(self, spec: EngineSpec) -> None:
        """Take the knobs from `spec.settings`."""
        if not isinstance(spec.settings, SimulationSettings):
            raise TypeError("a simulated generator needs SimulationSettings")
        super().__init__(spec)
        self._settings = spec.settings

    async def handle(self, request: Request) -> tuple[Candidate, ...]:
        """See `Engine.handle`."""
        if not isinstance(request, GenerateRequest):
            raise EngineError(f"a generator was sent a {type(request).__name__}")
        return await self.generate(request)

    async def generate(self, request: GenerateRequest) -> tuple[Candidate, ...]:
        """See `Generator.generate`."""
        self._running += request.n
        try:
            if self._settings.latency_s:
                await asyncio.sleep(self._settings.latency_s)
            candidates = self._candidates(request)
        finally:
            self._running -= request.n
        self._generated += sum(len(candidate.token_ids) for candidate in candidates)
        self._prompted += len(request.prefix_ids)
        return candidates

    def _candidates(self, request: GenerateRequest) -> tuple[Candidate, ...]:
        steps = self._settings.steps
        total = _total(request.messages[-1].content, request.problem_id)
        step_accuracy = self._accuracy(request.problem_id) ** (1 / steps)
        start = _last_claim(_decode(request.prefix_ids), steps)
        return tuple(
            _sample(request, index, start, total, step_accuracy) for index in range(request.n)
        )

    def _accuracy(self, problem_id: str) -> float:
        mean = self._settings.accuracy
        if mean == 0:
            return 0.0
        # If U is uniform, U^k has the mean 1 / (k + 1); this k makes that `accuracy`.
        return float(_uniform(_bits("difficulty", problem_id)) ** ((1 - mean) / mean))


class SimulatedSource(RewardSource[SimulatedRewardSettings]):
    """Rewards of `SimulatedScorer`, in a pool like the policy's."""

    def engine(self, engines: EngineSettings) -> EngineSpec:
        """See `RewardSource.engine`."""
        return EngineSpec(
            kind=self.settings.kind,
            name="reward",
            path="",
            model=engines.policy,
            pool=engines.policy_pool,
            settings=self.settings,
        )


class SimulatedScorer(_SimulatedEngine):
    """The port `Scorer`, and an `Engine`: noise around whether a step's claim is true."""

    def __init__(self, spec: EngineSpec) -> None:
        """Take the noise from `spec.settings`."""
        if not isinstance(spec.settings, SimulatedRewardSettings):
            raise TypeError("a simulated scorer needs SimulatedRewardSettings")
        super().__init__(spec)
        self._noise = spec.settings.noise

    async def handle(self, request: Request) -> tuple[Score, ...]:
        """See `Engine.handle`."""
        if not isinstance(request, ScoreRequest):
            raise EngineError(f"a scorer was sent a {type(request).__name__}")
        return await self.score(request)

    async def score(self, request: ScoreRequest) -> tuple[Score, ...]:
        """See `Scorer.score`."""
        total = _total(request.problem.question, request.problem.problem_id)
        return tuple(
            self._score(candidate, total, _bits("score", request.seed, index))
            for index, candidate in enumerate(request.candidates)
        )

    def _score(self, candidate: Candidate, total: int, bits: int) -> Score:
        mean = RIGHT_REWARD if _is_true(candidate.text, total) else WRONG_REWARD
        if self._noise == 0:
            return Score(reward=mean)
        # Strictly inside (0, 1), where the inverse of the normal distribution is finite.
        quantile = (1 + (bits & 0xFFFFFFFF)) / (2 + 0xFFFFFFFF)
        reward = NormalDist(mean, self._noise).inv_cdf(quantile)
        return Score(reward=min(1.0, max(0.0, reward)))


def _sample(
    request: GenerateRequest, index: int, start: _Claim, total: int, step_accuracy: float
) -> Candidate:
    boundary = request.stop[0] if request.stop else BOUNDARY
    text, ended = "", True
    step, steps = start.index, start.steps
    error = start.value - total * step // steps
    while step < steps:
        step += 1
        bits = _bits("sample", request.seed, index, step)
        if _uniform(bits) >= step_accuracy:
            error += 1 + (bits >> 56) % 9  # errors only grow: a wrong chain stays wrong
        value = total * step // steps + error
        if step == steps:
            text += f"{'' if boundary.endswith(chr(10)) else chr(10)}#### {value}"
        else:
            text += f"Step {step} of {steps}: {_PHRASES[(bits >> 54) % 4]} {value}{boundary}"
            if request.stop:
                ended = False
                break
    token_ids = tuple(text.encode()) + ((END_OF_SEQUENCE,) if ended else ())
    reason = StopReason.END if ended else StopReason.BOUNDARY
    if len(token_ids) > request.max_tokens:
        token_ids, reason = token_ids[: request.max_tokens], StopReason.LENGTH
        text = _decode(token_ids)
    logprob = -0.1 - _uniform(_bits("logprob", request.seed, index))
    return Candidate(text=text, token_ids=token_ids, logprob=logprob, stop_reason=reason)


def _total(question: str, problem_id: str) -> int:
    found = _SUM.search(question)
    if found is None:
        return _bits("total", problem_id) % 10**9
    return sum(int(term) for term in found[0].split("+"))


def _last_claim(prefix: str, steps: int) -> _Claim:
    if answer := _ANSWER.search(prefix):
        return _Claim(steps, steps, int(answer[1]))
    claims = _CLAIM.findall(prefix)
    if not claims:
        return _Claim(0, steps, 0)
    index, steps_then, value = map(int, claims[-1])
    return _Claim(min(index, steps_then), max(steps_then, 1), value)


def _is_true(step: str, total: int) -> bool:
    if answer := _ANSWER.search(step):
        return int(answer[1]) == total
    claims = _CLAIM.findall(step)
    if not claims:
        return False
    index, steps, value = map(int, claims[-1])
    return steps > 0 and value == total * index // steps


def _decode(token_ids: tuple[int, ...]) -> str:
    return bytes(i for i in token_ids if i < END_OF_SEQUENCE).decode(errors="ignore")


def _bits(*identity: str | int) -> int:
    digest = blake2b(":".join(map(str, identity)).encode(), digest_size=8).digest()
    return int.from_bytes(digest)


def _uniform(bits: int) -> float:
    """In [0, 1), from the lowest 53 bits."""
    return (bits & ((1 << 53) - 1)) / (1 << 53)
