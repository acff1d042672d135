"""The gates on one proposed pair: the first that it fails names the reason why it is dropped."""

from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from sphere_ray.config.method import PairSettings
from sphere_ray.method.equations import false_equation
from sphere_ray.method.prompts import refers_to_attempt
from sphere_ray.method.solutions import Solution
from sphere_ray.records import Candidate, StageName, Verdict

IMPLAUSIBLE = "implausible"
"""The model would hardly write the rejected side."""
_WRONG = frozenset({Verdict.WRONG, Verdict.NO_ANSWER, Verdict.TRUNCATED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of a proposed pair; `ids` are empty where the trainer must tokenise the text.

    A side that is a step of a chain has no `solution`. `logprob` is the mean per token in nats.
    """

    chain_id: str
    stage: StageName
    model: str
    text: str
    ids: tuple[int, ...]
    num_tokens: int
    logprob: float
    reward: float | None
    solution: Solution | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A chosen and a rejected side; those of a step-level pair share a prefix."""

    stage: StageName
    chosen: Side
    rejected: Side
    prefix: str = ""
    prefix_ids: tuple[int, ...] = ()


def refusal(proposal: Proposal, rules: PairSettings) -> str | None:
    """Return the first gate the proposal fails; None if it passes all that look at it alone."""
    one, other = proposal.chosen.solution, proposal.rejected.solution
    if one and other and not (one.correct and other.verdict in _WRONG):
        return "outcome"
    return (
        flaw(proposal.chosen, rules, chosen=True, prefix=proposal.prefix)
        or flaw(proposal.rejected, rules, chosen=False, prefix=proposal.prefix)
        or _misfit(proposal.chosen, proposal.rejected, rules)
    )


def flaw(side: Side, rules: PairSettings, *, chosen: bool, prefix: str = "") -> str | None:
    """Return the first gate that one side fails, whatever the other side is."""
    if side.solution and not side.solution.ended:
        return "not_terminated"
    if side.num_tokens > rules.max_tokens:
        return "too_long"
    if side.stage is StageName.SELF_CORRECTION and refers_to_attempt(prefix + side.text):
        return "refers_to_attempt"
    return _luck(side) if chosen and rules.sound_chosen else None


def _misfit(chosen: Side, rejected: Side, rules: PairSettings) -> str | None:
    shorter, longer = sorted((chosen.num_tokens, rejected.num_tokens))
    if rules.max_length_ratio and longer > rules.max_length_ratio * shorter:
        return "length_ratio"
    unlikely = is_implausible(chosen.logprob, rejected.logprob, rules.max_logprob_gap)
    if unlikely and _comparable(chosen, rejected):
        return IMPLAUSIBLE
    least, texts = rules.min_edit_distance, (chosen.text.strip(), rejected.text.strip())
    if Levenshtein.distance(*texts, score_cutoff=least) < least:
        return "too_similar"
    return None


def is_implausible(chosen: float, rejected: float, gap: float | None) -> bool:
    """Whether the rejected side is less likely than the chosen one by more than `gap`.

    All three are nats per token; without a gap nothing is. Such a side teaches nothing that the
    policy would do, yet it makes the largest gradients, which move probability anywhere.
    """
    return gap is not None and chosen - rejected > gap


def _luck(chosen: Side) -> str | None:
    """Why a right answer was reached by luck: a false equation, or a step that leads nowhere."""
    if false_equation(chosen.text) is not None:
        return "false_equation"
    steps = chosen.solution.steps if chosen.solution else ()
    return "zero_value" if any(map(_leads_nowhere, steps)) else None


def _leads_nowhere(step: Candidate) -> bool:
    return bool(step.values) and not any(step.values or ())


def _comparable(one: Side, other: Side) -> bool:
    """Whether the recorded log-probs of both are of one model and one prompt.

    For other pairs the reference step asks, which has all log-probs under the trained prompt.
    """
    corrected = [side.stage is StageName.SELF_CORRECTION for side in (one, other)]
    return one.model == other.model and corrected[0] == corrected[1]
