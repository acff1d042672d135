"""What the pages show, made of records: solutions with their steps and siblings, and why a pair is.

Nothing here is text of a page but the sentences about reasons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sphere_ray.method.audit import REJECTED, text_id
from sphere_ray.method.equations import false_equation
from sphere_ray.method.gates import IMPLAUSIBLE
from sphere_ray.method.pairs import DUPLICATE
from sphere_ray.method.solutions import Solution, completed, searched
from sphere_ray.records import (
    Candidate,
    Chain,
    Completion,
    PreferencePair,
    Rollout,
    Verdict,
)
from sphere_ray.reward.judgements import Judged
from sphere_ray.rollout.pairing import FAMILY_BALANCE, OFF_POLICY_CAP

REASONS = {
    "outcome": "The chosen side is not right, or the rejected side is not wrong.",
    "not_terminated": "A side did not end by itself.",
    "too_long": "A side has more tokens than method.pairs.max_tokens.",
    "refers_to_attempt": "A correction speaks of the attempt, which the trained prompt lacks.",
    "false_equation": "The chosen side has a false equation.",
    "zero_value": "The chosen side has a step from which nothing reached the gold answer.",
    "length_ratio": "One side is longer than method.pairs.max_length_ratio allows.",
    IMPLAUSIBLE: "The rejected side is too unlikely beside the chosen one (max_logprob_gap).",
    "too_similar": "The two sides differ by fewer characters than min_edit_distance.",
    DUPLICATE: "The same pair is there already.",
    "per_problem_cap": "The problem has method.pairs.max_per_problem pairs already.",
    OFF_POLICY_CAP: "Off-policy pairs are capped (method.pairs.max_off_policy_share).",
    FAMILY_BALANCE: "The family has its share of pairs already (method.pairs.max_family_ratio).",
    REJECTED: "A person rejected it.",
}

_FIRST = "Of the wrong solutions, those with the fewest pairs go first, and of these"
PREFERENCES = {
    "likeliest": f"{_FIRST} the likeliest.",
    "worst": f"{_FIRST} the one with the smallest reward.",
    "two_deviations": f"{_FIRST} the one nearest to two deviations below the mean reward.",
}
"""What each value of `method.pairs.rejected` means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiblingView:
    """A proposed step; `outcomes` says `3 of 4` where completions are behind the reward."""

    text: str
    reward: float | None
    outcomes: str
    logprob: float
    tokens: int
    taken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """A position of a solution; `shared` steps are the same on the other side of the pair."""

    taken: SiblingView | None
    siblings: tuple[SiblingView, ...]
    shared: bool
    rest: str = ""
    """The text of a completion, which is no step of the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SolutionView:
    """A chain of the search, or what followed from a sibling along `chain` by a completion."""

    solution_id: str
    text_id: str
    chain: Chain
    searched: bool
    steps: tuple[StepView, ...]
    verdict: Verdict
    held: bool | None
    """Whether a person holds it to be right; None where nobody said."""
    reward: float | None
    logprob: float
    tokens: int
    ended: bool
    false_equation: str | None

    @property
    def right(self) -> bool:
        """Whether it counts as right: a person's word goes before the grader's."""
        return self.verdict is Verdict.CORRECT if self.held is None else self.held

    @property
    def judged(self) -> Judged:
        """What a decision about it notes."""
        return Judged(
            chain_id=self.solution_id,
            text_id=self.text_id,
            verdict=self.verdict,
            reward=self.reward,
        )


def view_of(
    rollout: Rollout, solution_id: str, verdicts: Mapping[str, bool]
) -> SolutionView | None:
    """A chain or a completion of a problem; None if there is none with this id.

    `verdicts` are those of people, by `text_id`.
    """
    for chain in rollout.chains:
        if solution_id.startswith(chain.chain_id):
            for solution in (searched(chain), *completed([chain])):
                if solution.solution_id == solution_id:
                    return _view(solution, rollout, verdicts)
    return None


def marked_shared(one: SolutionView, other: SolutionView) -> tuple[SolutionView, SolutionView]:
    """Two solutions with the steps marked that both begin with."""
    count = 0
    for first, second in zip(one.steps, other.steps, strict=False):
        if _said(first) != _said(second):
            break
        count += 1
    return _shared(one, count), _shared(other, count)


def step_sides(pair: PreferencePair) -> tuple[Judged, Judged]:
    """What a decision about a step-level pair notes of its sides."""
    sides = (
        (pair.chosen_chain, pair.chosen, pair.chosen_reward),
        (pair.rejected_chain, pair.rejected, pair.rejected_reward),
    )
    one, other = (
        Judged(
            chain_id=chain,
            text_id=text_id(pair.problem_id, f"{pair.prefix}{text}"),
            reward=reward,
        )
        for chain, text, reward in sides
    )
    return one, other


def why(
    reason: str | None,
    chosen: SolutionView | None,
    rejected: SolutionView | None,
    preference: str,
) -> str:
    """Why a pair was dropped, or what made it a pair, in a few sentences.

    `preference` is `method.pairs.rejected`.
    """
    if reason is None:
        kept = "The chosen side is right, the rejected side is wrong, and every gate was passed."
        wanted = PREFERENCES.get(preference, "")
        return f"{kept} {wanted} {_compared(chosen, rejected)}".strip()
    sentence = REASONS.get(reason, f"The gate {reason} refused it.")
    if chosen is not None and reason == "false_equation" and chosen.false_equation:
        return f"{sentence[:-1]}: {chosen.false_equation.strip()}"
    return f"{sentence} {_compared(chosen, rejected)}".strip()


def _compared(chosen: SolutionView | None, rejected: SolutionView | None) -> str:
    if chosen is None or rejected is None:
        return ""
    said = [
        f"{chosen.logprob:.2f} and {rejected.logprob:.2f} nats a token",
        f"{chosen.tokens} and {rejected.tokens} tokens",
    ]
    if chosen.reward is not None and rejected.reward is not None:
        said.insert(0, f"smallest rewards {chosen.reward:.2f} and {rejected.reward:.2f}")
    return f"Chosen and rejected have {', '.join(said)}."


def _view(solution: Solution, rollout: Rollout, verdicts: Mapping[str, bool]) -> SolutionView:
    mark = text_id(rollout.problem.problem_id, solution.text)
    return SolutionView(
        solution_id=solution.solution_id,
        text_id=mark,
        chain=solution.chain,
        searched=solution.searched,
        steps=tuple(
            _step(part, siblings)
            for part, siblings in zip(solution.parts, _siblings(solution), strict=True)
        ),
        verdict=solution.verdict,
        held=verdicts.get(mark),
        reward=solution.reward,
        logprob=solution.logprob,
        tokens=solution.num_tokens,
        ended=solution.ended,
        false_equation=false_equation(solution.text),
    )


def _siblings(solution: Solution) -> list[tuple[Candidate, ...]]:
    """What was proposed at the place of each part; a completion has no siblings."""
    steps = solution.chain.steps
    return [
        steps[depth].candidates if depth < len(steps) and isinstance(part, Candidate) else ()
        for depth, part in enumerate(solution.parts)
    ]


def _step(part: Candidate | Completion, siblings: Sequence[Candidate]) -> StepView:
    if isinstance(part, Completion):
        return StepView(taken=None, siblings=(), shared=False, rest=part.text)
    views = tuple(_sibling(each, taken=each is part) for each in siblings)
    taken = next((each for each in views if each.taken), None) or _sibling(part, taken=True)
    return StepView(taken=taken, siblings=views, shared=False)


def _sibling(candidate: Candidate, *, taken: bool) -> SiblingView:
    values = candidate.values or ()
    return SiblingView(
        text=candidate.text,
        reward=candidate.reward,
        outcomes=f"{sum(values):.0f} of {len(values)}" if values else "",
        logprob=candidate.logprob,
        tokens=len(candidate.token_ids),
        taken=taken,
    )


def _said(step: StepView) -> str:
    return step.taken.text if step.taken is not None else step.rest


def _shared(view: SolutionView, count: int) -> SolutionView:
    steps = tuple(replace(step, shared=depth < count) for depth, step in enumerate(view.steps))
    return replace(view, steps=steps)
