"""What travels between the rooms: the nouns of the project, frozen, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """Outcome of grading one answer; an engine failure is never a verdict."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    UNGRADABLE = "ungradable"
    TIMEOUT = "timeout"


class StageName(StrEnum):
    """The stage of the method that made a chain or a pair."""

    SELF_GENERATION = "self_generation"
    SELF_CORRECTION = "self_correction"
    DIVERSITY = "diversity"


class Branch(StrEnum):
    """Which path of the search a chain is."""

    MAX = "max"
    MIN = "min"
    SAMPLE = "sample"


class StopReason(StrEnum):
    """Why an engine stopped a candidate."""

    BOUNDARY = "boundary"
    END = "end"
    LENGTH = "length"


class FinishReason(StrEnum):
    """Why a chain ended."""

    ANSWER = "answer"
    """It ended by itself: end-of-sequence token, or a step that states the final answer."""
    LENGTH = "length"
    """A token limit cut it."""
    DEPTH = "depth"
    """It reached the depth limit without an answer."""
    NO_CANDIDATE = "no_candidate"
    """No plausible next step was left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat turn; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question with its gold answer; `problem_id` is a hash of the normalised content."""

    problem_id: str
    question: str
    answer: str
    source: str
    family: str | None = None
    level: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One proposed next step.

    `text` includes its boundary, `token_ids` are the engine's own (end-of-sequence included),
    `logprob` is the mean per token in nats, `reward` lies in [0, 1] (None where nothing scored),
    `values` are the outcomes (1.0 reached the gold answer) behind a rollout value: K completions,
    or the step's own answer if it states one. `audit` is the original source's reward,
    for the sample of steps it re-scores after the trained reward model took over.
    """

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    stop_reason: StopReason
    reward: float | None = None
    values: tuple[float, ...] | None = None
    audit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A position of a chain: all siblings that were proposed, and which one the chain took.

    `advantage` is the chosen reward minus the parent step's reward (at depth 0: the reward).
    """

    candidates: tuple[Candidate, ...]
    chosen: int
    advantage: float | None = None

    @property
    def candidate(self) -> Candidate:
        """The sibling this chain continues with."""
        return self.candidates[self.chosen]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A reasoning chain: steps from the question to (perhaps) an answer, and its verdict."""

    chain_id: str
    stage: StageName
    branch: Branch
    model: str
    steps: tuple[Step, ...]
    answer: str | None
    verdict: Verdict
    finish_reason: FinishReason
    num_tokens: int
    seed: int
    parent_id: str | None = None

    @property
    def text(self) -> str:
        """The whole chain as text."""
        return "".join(step.candidate.text for step in self.steps)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The whole chain as the engine's token ids."""
        return tuple(i for step in self.steps for i in step.candidate.token_ids)

    @property
    def reward(self) -> float | None:
        """The smallest step reward (the weakest link; arXiv 2504.15275), None if unscored."""
        rewards = [s.candidate.reward for s in self.steps if s.candidate.reward is not None]
        return min(rewards, default=None)

    @property
    def correct(self) -> bool:
        """Whether the final answer matches the gold answer."""
        return self.verdict is Verdict.CORRECT


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """One training example of DPO.

    `prefix` and `prefix_ids` are the shared steps of a step-level pair (empty for whole chains).
    `chosen_ids` and `rejected_ids` are the engine's tokens; when empty, the text is tokenised.
    """

    pair_id: str
    problem_id: str
    stage: StageName
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    chosen_ids: tuple[int, ...] = ()
    rejected_ids: tuple[int, ...] = ()
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    chosen_chain: str = ""
    rejected_chain: str = ""
    prefix: str = ""
    prefix_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One row of rollouts/: everything that happened to one problem in one iteration.

    `route` lists `stage:outcome` in order; `dropped` the reason of every pair a gate refused;
    `tokens` counts every decoded token, scorer completions included; `error` is why a row failed.
    """

    problem: Problem
    chains: tuple[Chain, ...] = ()
    route: tuple[str, ...] = ()
    pairs: tuple[PreferencePair, ...] = ()
    dropped: tuple[str, ...] = ()
    tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRow:
    """One row of evaluation/: how a model answered one problem.

    `response`, `answer`, `verdict`, `num_tokens` and `finish_reason` belong to the greedy answer;
    `sample_verdicts` and `sample_answers` have one entry per sample (none when not sampled).
    """

    problem_id: str
    family: str | None
    level: int | None
    response: str
    answer: str | None
    verdict: Verdict
    num_tokens: int
    finish_reason: FinishReason
    sample_verdicts: tuple[Verdict, ...] = ()
    sample_answers: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledStep:
    """A step and how often it led to the gold answer: training data of a process reward model.

    `prefix` are the texts of the steps before it; `value` in [0, 1] is the share of `outcomes` that
    reached the gold (0 outcomes: the reward of an external source); `reward` is what the search
    went by; `final` says that the step ends its chain.
    """

    problem_id: str
    question: str
    prefix: tuple[str, ...]
    text: str
    final: bool
    value: float
    outcomes: int
    reward: float

    @property
    def depth(self) -> int:
        """Number of steps before this one."""
        return len(self.prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScore:
    """What a reward source says about a step: the texts of the steps before it, and its own."""

    prefix: tuple[str, ...]
    text: str
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """The scores that a source gave the steps of one rollout, and the tokens decoded for them."""

    problem_id: str
    scores: tuple[StepScore, ...] = ()
    tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """A model directory and where it came from."""

    path: str
    iteration: int
    fingerprint: str
    parent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUse:
    """What an engine pool did in the session that finished a phase, summed over its replicas.

    `busy_s` are replica-seconds with at least one request in flight; prefix counts are prompt
    tokens that were looked for in the cache and found there.
    """

    name: str
    replicas: int
    seconds: float
    busy_s: float
    generated_tokens: int
    prefix_queries: int
    prefix_hits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseReport:
    """What a phase did; lies inside its manifest."""

    phase: str
    fingerprint: str
    rows_in: int
    rows_out: int
    seconds: float
    dropped: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0
    pools: tuple[PoolUse, ...] = ()
