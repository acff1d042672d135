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
    """The stages of the method in their order; each chain and pair names the one that made it."""

    SELF_GENERATION = "self_generation"
    SELF_CORRECTION = "self_correction"
    DIVERSITY = "diversity"


CORRECTION_CHECK = "correction_check"
"""A right solution is shown to the policy as wrong, to measure how often it is given up."""


class Outcome(StrEnum):
    """How the chains of a stage ended; the second half of an entry of `Rollout.route`."""

    PAIR = "pair"
    BOTH_WRONG = "both_wrong"
    BOTH_RIGHT = "both_right"
    INVERSION = "inversion"
    """Sol_max is wrong and Sol_min is right: the scorer misjudged."""
    ALL_WRONG = "all_wrong"
    ALL_RIGHT = "all_right"
    """These two belong to sampled chains. No later stage takes them."""
    UNDECIDED = "undecided"
    """The grader could not read an answer or the gold, or it ran out of time."""
    NO_ATTEMPT = "no_attempt"
    """Self-correction had no chain to show, because no first step was plausible."""
    KEPT = "kept"
    LOST = "lost"
    """These two say whether a right solution survived the correction check."""


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
class Completion:
    """The rest of a solution after a step, as a rollout value sampled and graded it.

    `text`, `token_ids` and `logprob` are those of a candidate and begin after the step. The
    `verdict` is about the whole solution. A step that states an answer has one empty completion.
    """

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    stop_reason: StopReason
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One proposed next step.

    `text` includes its boundary, `token_ids` are the engine's own (end-of-sequence included), and
    `logprob` is the mean per token in nats. `reward` lies in [0, 1] and is None where nothing
    scored. `values` are the outcomes behind a rollout value (1.0: the gold answer was reached) of
    K completions, or of the step itself if it states an answer. `completions` are the texts and
    verdicts behind them, with those on which the grader ran out of time. `audit` is the original
    source's reward, for the sample of steps it re-scores after the trained reward model took over.
    """

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    stop_reason: StopReason
    reward: float | None = None
    values: tuple[float, ...] | None = None
    audit: float | None = None
    completions: tuple[Completion, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A position of a chain: all siblings that were proposed, and which one the chain took."""

    candidates: tuple[Candidate, ...]
    chosen: int

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
    `chosen_chain` and `rejected_chain` are ids of chains. `CHAIN/d.s.c` is no chain of the search:
    it follows CHAIN for d steps and goes on with sibling s and its completion c, all from 0.
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
class Dropped:
    """A pair that a gate refused, and the name of the gate."""

    pair_id: str
    problem_id: str
    stage: StageName
    chosen_chain: str
    rejected_chain: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One row of rollouts/: everything that happened to one problem in one iteration.

    `route` lists `stage:outcome` in order. `tokens` counts every decoded token, those of the
    scorer included, and `stage_tokens` those of each entry of the route. `error` says why the row
    failed.
    """

    problem: Problem
    chains: tuple[Chain, ...] = ()
    route: tuple[str, ...] = ()
    tokens: int = 0
    stage_tokens: tuple[int, ...] = ()
    error: str | None = None

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of the last stage, None before the first; a correction check is no stage."""
        entries = (entry.partition(":") for entry in reversed(self.route))
        return next((Outcome(end) for name, _, end in entries if name != CORRECTION_CHECK), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRow:
    """One row of evaluation/: how a model answered one problem, or the `error` that prevented it.

    `response`, `answer`, `verdict`, `num_tokens` and `finish_reason` belong to the greedy answer.
    `sample_verdicts` and `sample_answers` have one entry per sample (none when not sampled). Wrong
    answers of one value are all spelt as the first of them.
    A row with an error has no verdict: the problem counts neither as right nor as wrong.
    """

    problem_id: str
    family: str | None
    level: int | None
    response: str = ""
    answer: str | None = None
    verdict: Verdict | None = None
    num_tokens: int = 0
    finish_reason: FinishReason | None = None
    sample_verdicts: tuple[Verdict, ...] = ()
    sample_answers: tuple[str | None, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledStep:
    """A step and how often it led to the gold answer: training data of a process reward model.

    `prefix` holds the texts of the steps before it. `value` in [0, 1] is the share of `outcomes`
    that reached the gold (with 0 outcomes: the reward of an external source). `reward` is the one
    that the search used. `final` says that the step ends its chain.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUse:
    """What an engine pool did in the session that finished a phase, summed over its replicas.

    `busy_s` counts the seconds in which a replica had at least one request. `prefix_queries` are
    the prompt tokens that the prefix cache was asked for, `prefix_hits` those that it had.
    """

    name: str
    replicas: int
    seconds: float
    busy_s: float
    generated_tokens: int
    prefix_queries: int
    prefix_hits: int

    @property
    def replica_seconds(self) -> float:
        """The seconds of all replicas together."""
        return self.replicas * self.seconds

    @property
    def idle(self) -> float | None:
        """The share of its time in which a replica had no request; None over no time."""
        total = self.replica_seconds
        return 1 - min(self.busy_s / total, 1) if total else None

    @property
    def prefix_share(self) -> float | None:
        """The share of the prompt tokens that the prefix cache had; None where none was asked."""
        return self.prefix_hits / self.prefix_queries if self.prefix_queries else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """The policy that wrote an iteration's pairs, for a training that reads them.

    `policy` is its fingerprint, `policy_iteration` its `ModelRef.iteration`. `lag` is how many
    iterations behind it was: those that promoted another policy before the training began.
    """

    iteration: int
    policy: str
    policy_iteration: int
    lag: int
    pairs: int


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
    writers: tuple[Writer, ...] = ()
