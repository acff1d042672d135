"""Whole graded solutions of one problem: the chains of its searches, and the scorer's completions.

A rollout value completes every candidate step and grades what comes out. Such a completion after
its prefix is a solution by the policy, from the plain question, that was already paid for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from sphere_ray.records import (
    Branch,
    Candidate,
    Chain,
    Completion,
    FinishReason,
    Rollout,
    StageName,
    StopReason,
    Verdict,
)


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A chain of the search, or what `chain` led to by another sibling and a completion.

    `parts` are the steps taken, in order; a completion is the last part.
    """

    solution_id: str
    chain: Chain
    parts: tuple[Candidate | Completion, ...]
    verdict: Verdict
    ended: bool
    searched: bool

    @property
    def stage(self) -> StageName:
        """The stage of the chain."""
        return self.chain.stage

    @property
    def correct(self) -> bool:
        """Whether the final answer matches the gold answer."""
        return self.verdict is Verdict.CORRECT

    @cached_property
    def text(self) -> str:
        """The solution as text."""
        return "".join(part.text for part in self.parts)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The solution as the engine's token ids."""
        return tuple(i for part in self.parts for i in part.token_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens of the solution."""
        return sum(len(part.token_ids) for part in self.parts)

    @cached_property
    def logprob(self) -> float:
        """Mean log-prob per token in nats, under the model and the prompt that it came from."""
        total = sum(part.logprob * len(part.token_ids) for part in self.parts)
        return total / max(1, self.num_tokens)

    @cached_property
    def reward(self) -> float | None:
        """The smallest reward of its steps, None if unscored (see `Chain.reward`)."""
        return min((step.reward for step in self.steps if step.reward is not None), default=None)

    @property
    def steps(self) -> tuple[Candidate, ...]:
        """The parts that the search proposed."""
        return tuple(part for part in self.parts if isinstance(part, Candidate))

    @property
    def ends_in_token(self) -> bool:
        """Whether its last token is an end-of-sequence token."""
        return bool(self.parts) and self.parts[-1].stop_reason is StopReason.END


def searched(chain: Chain) -> Solution:
    """Return a chain of the search as a solution."""
    return Solution(
        solution_id=chain.chain_id,
        chain=chain,
        parts=tuple(step.candidate for step in chain.steps),
        verdict=chain.verdict,
        ended=chain.finish_reason is FinishReason.ANSWER,
        searched=True,
    )


def completed(chains: Sequence[Chain]) -> list[Solution]:
    """Return the decided completions along chains of the policy, each text once.

    Chains share their first steps, and a completion may repeat a chain: what a chain of the search
    says is left out.
    """
    seen = {chain.text.strip() for chain in chains}
    found = []
    for chain in chains:
        for solution in _completions_of(chain):
            text = solution.text.strip()
            if text not in seen:
                seen.add(text)
                found.append(solution)
    return found


def is_settled(rollout: Rollout) -> bool:
    """Whether the policy's answers to the plain question were all right, or all wrong.

    A rollout that failed, or of which nothing could be decided, leaves the question open.
    """
    own = branch_of(rollout.chains, StageName.SELF_GENERATION, *Branch)
    found = [*map(searched, own), *completed(own)]
    undecided = (Verdict.UNGRADABLE, Verdict.TIMEOUT)
    outcomes = {each.correct for each in found if each.verdict not in undecided}
    return rollout.error is None and len(outcomes) == 1


def shared_steps(one: Solution, other: Solution) -> int:
    """Count the parts that two solutions begin with in common."""
    count = 0
    for first, second in zip(one.parts, other.parts, strict=False):
        if first.text != second.text:
            break
        count += 1
    return count


def _completions_of(chain: Chain) -> Iterator[Solution]:
    taken: tuple[Candidate, ...] = ()
    for depth, step in enumerate(chain.steps):
        for sibling, candidate in enumerate(step.candidates):
            for number, completion in enumerate(candidate.completions or ()):
                # A wrong completion states an answer: one without is too easy to tell apart.
                if completion.verdict in (Verdict.CORRECT, Verdict.WRONG):
                    own = (completion,) if completion.text else ()
                    yield Solution(
                        solution_id=f"{chain.chain_id}/{depth}.{sibling}.{number}",
                        chain=chain,
                        parts=(*taken, candidate, *own),
                        verdict=completion.verdict,
                        ended=True,
                        searched=False,
                    )
        taken = (*taken, step.candidate)


def branch_of(chains: Sequence[Chain], stage: StageName, *branches: Branch) -> list[Chain]:
    """Return the chains of a stage, in the order of `branches`."""
    return [c for branch in branches for c in chains if c.stage is stage and c.branch is branch]
