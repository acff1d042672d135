"""Preference pairs: which solutions and steps are paired; the gates drop a pair by reason.

A pure function of the recorded rollout, so old rollouts are re-paired by new rules without any
generation. Training-time facts (tokenizers, end-of-sequence ids) are not known here.
"""

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from operator import itemgetter
from statistics import fmean, pstdev

import pyarrow as pa
import pyarrow.compute as pc

from sphere_ray.config.method import MethodSettings, PairSettings
from sphere_ray.method.audit import NOTHING, REJECTED, Audit
from sphere_ray.method.gates import Proposal, Side, flaw, refusal
from sphere_ray.method.prompts import question_messages
from sphere_ray.method.solutions import Solution, branch_of, completed, searched, shared_steps
from sphere_ray.method.steps import is_final
from sphere_ray.records import (
    Branch,
    Candidate,
    Chain,
    Dropped,
    Message,
    PreferencePair,
    Rollout,
    StageName,
)

DUPLICATE = "duplicate"
"""The reason for which a pair that is there already is dropped."""
OFF_POLICY = StageName.DIVERSITY
"""The stage of the pairs whose rejected side the small model wrote."""
_GENERATION, _CORRECTION = StageName.SELF_GENERATION, StageName.SELF_CORRECTION
_TRIES = 4
"""Wrong solutions that one right solution is proposed with before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """What the chains of one problem gave: pairs to train on, and the proposals a gate refused."""

    pairs: tuple[PreferencePair, ...]
    dropped: tuple[Dropped, ...]


class _Collection:
    """The pairs of one problem so far, and how many of them each solution's text is in."""

    def __init__(self, rollout: Rollout, settings: MethodSettings, audit: Audit) -> None:
        self.rules = settings.pairs
        self.pairs: dict[str, PreferencePair] = {}
        self.dropped: list[Dropped] = []
        self._uses = Counter[str]()
        self._offered: set[tuple[str, str]] = set()
        self._problem_id = rollout.problem.problem_id
        self._prompt = question_messages(rollout.problem.question, settings.prompts)
        self._refused = audit.rejected
        self.accepted = audit.accepted.get(self._problem_id, {})

    def offer(self, proposal: Proposal) -> bool:
        """Keep a pair or drop it by reason; whether its sides are spoken for."""
        self._offered.add((proposal.chosen.text, proposal.rejected.text))
        pair = _pair(proposal, self._problem_id, self._prompt)
        reason = refusal(proposal, self.rules)
        if reason is None and pair.pair_id in self._refused:
            reason = REJECTED
        if reason is None and pair.pair_id in self.pairs:
            reason = DUPLICATE
        fits = reason is None
        if fits and self.is_full and pair.pair_id not in self.accepted:
            reason = "per_problem_cap"
        if reason is None:
            self.pairs[pair.pair_id] = pair
        else:
            self.dropped.append(_dropped(pair, reason))
        if fits:
            self._uses.update((proposal.chosen.text, proposal.rejected.text))
        return fits

    def is_accepted(self, proposal: Proposal) -> bool:
        """Whether a person accepted this pair."""
        ids = self.accepted
        return bool(ids) and _pair(proposal, self._problem_id, self._prompt).pair_id in ids

    @property
    def is_full(self) -> bool:
        """Whether no further pair can be kept."""
        return len(self.pairs) >= self.rules.max_per_problem

    def uses(self, solution: Solution) -> int:
        """How many pairs have it; equal texts, which search often makes, count as one."""
        return self._uses[solution.text.rstrip()]

    def is_new(self, right: Solution, wrong: Solution) -> bool:
        """Whether these two were not yet offered together."""
        return (right.text.rstrip(), wrong.text.rstrip()) not in self._offered


def build_pairs(rollout: Rollout, settings: MethodSettings, audit: Audit = NOTHING) -> Paired:
    """Pair the solutions of a rollout; whole-chain pairs come before step pairs.

    Pairs that a person accepted come first, then solutions by the policy, then corrected ones, then
    the small model's mistakes. The order is stable. A failed rollout gives nothing. Verdicts that
    a person corrected are in the rollout already (`method.audit.corrected`).
    """
    made = _Collection(rollout, settings, audit)
    if rollout.error is None:
        # A solution that was right and shown as wrong (correction check) measures, never teaches.
        right = {chain.chain_id for chain in rollout.chains if chain.correct}
        chains = [chain for chain in rollout.chains if chain.parent_id not in right]
        if settings.pairs.level != "step":
            _pair_solutions(made, chains)
        if settings.pairs.level != "chain":
            steps = [p for p in _step_pairs(chains, settings.pairs) if made.rules.keeps(p.stage)]
            for proposal in sorted(steps, key=made.is_accepted, reverse=True):
                made.offer(proposal)
    return Paired(pairs=tuple(made.pairs.values()), dropped=tuple(made.dropped))


def off_policy_cut(
    on_policy: int, off_policy_ids: pa.ChunkedArray, settings: PairSettings
) -> str | None:
    """Return the largest id that an off-policy pair of an iteration may have; None: all may stay.

    The share of off-policy pairs among all that stay is capped; the `on_policy` other pairs all
    stay. The smallest ids stay: an id is a content hash, so the choice is arbitrary but fixed.
    Where none may stay, the cut is the empty string, which lies before every id.

    No gate looks for one pair in two problems. The id hashes the prompt, the prompt holds the
    question, and ingest leaves no two problems with the same question.
    """
    share = settings.max_off_policy_share
    if share >= 1:
        return None
    room = math.floor(share * on_policy / (1 - share) + 1e-9)
    if room >= len(off_policy_ids):
        return None
    return _last_of(off_policy_ids, room)


def family_cuts(families: Mapping[str, pa.ChunkedArray], settings: PairSettings) -> dict[str, str]:
    """Return the largest id that a pair of a family may have, for each family that is cut.

    `families` are the ids of an iteration's pairs by family. All families are bounded by the same
    number of pairs, the largest that is at most `max_family_ratio` times the mean of what is left
    of each. The smallest ids stay (see `off_policy_cut`).
    """
    ratio, sizes = settings.max_family_ratio, [len(ids) for ids in families.values()]
    if ratio is None or not sizes:
        return {}

    def exceeds(bound: int) -> bool:
        return bound > ratio * fmean(min(size, bound) for size in sizes) + 1e-9

    # The larger the bound, the further it lies above the mean; the smallest size never exceeds it.
    room = min(sizes) + bisect_left(range(min(sizes) + 1, max(sizes) + 1), True, key=exceeds)
    return {name: _last_of(ids, room) for name, ids in families.items() if len(ids) > room}


def _last_of(ids: pa.ChunkedArray, room: int) -> str:
    """The largest of the `room` smallest ids; the empty string if there are none."""
    if room == 0:
        return ""
    whole = ids.combine_chunks()
    last: str = whole[pc.partition_nth_indices(whole, pivot=room - 1)[room - 1].as_py()].as_py()
    return last


def _pair_solutions(made: _Collection, chains: Sequence[Chain]) -> None:
    """Pair whole solutions stage by stage, right ones over wrong ones."""
    own = _searched(made.rules, chains, _GENERATION)
    # A completion answers the plain question, whoever wrote the steps before it; those of a
    # correction or of the small model begin with steps that the policy would not write there.
    generated = branch_of(chains, _GENERATION, Branch.MAX, Branch.MIN)
    first = own + (completed(generated) if made.rules.from_completions else [])
    corrected = _searched(made.rules, chains, _CORRECTION)
    small = [searched(c) for c in branch_of(chains, OFF_POLICY, Branch.MIN, Branch.MAX)]
    known = {each.solution_id: each for each in (*own, *first, *corrected, *small)}
    for stage, *names in made.accepted.values():
        if made.rules.keeps(stage) and all(name in known for name in names):
            proposal = _whole_pair(stage, *(known[name] for name in names))
            # Other rollouts may have other texts under these ids.
            _ = made.is_accepted(proposal) and made.offer(proposal)
    attempts = {solution.chain.parent_id for solution in corrected}
    for uses in range(made.rules.max_uses):
        _match(made, _GENERATION, first, first, uses=uses)
        _match(made, _CORRECTION, corrected, own + corrected, uses=uses, first=attempts)
        _match(made, OFF_POLICY, first + corrected, small, uses=uses)


def _searched(rules: PairSettings, chains: Sequence[Chain], stage: StageName) -> list[Solution]:
    """The chains of a stage of the policy, without those of an inversion that is to be dropped."""
    found = [searched(c) for c in branch_of(chains, stage, Branch.MAX, Branch.MIN, Branch.SAMPLE)]
    right = [solution.correct for solution in found if solution.chain.branch is not Branch.SAMPLE]
    return [] if rules.inversions == "drop" and right == [False, True] else found


def _match(
    made: _Collection,
    stage: StageName,
    rights: Sequence[Solution],
    wrongs: Sequence[Solution],
    *,
    uses: int,
    first: Collection[str | None] = (),
) -> None:
    """Propose each right solution with the wrong one it prefers, until a pair is found.

    Solutions in more than `uses` pairs are left out. Chains of the search come first among the
    right ones, then the likeliest. `first` are the ids of wrong solutions that go before others. A
    stage that gives no pairs takes no solution either.
    """
    if not made.rules.keeps(stage):
        return
    mistakes = [solution for solution in wrongs if not solution.correct]
    value = _preference(rights, wrongs, made.rules)

    def order(right: Solution, wrong: Solution) -> tuple[float, ...]:
        return (
            not wrong.ended,
            made.uses(wrong),
            wrong.solution_id not in first,
            _part_late(right, wrong),
            value(wrong),
            shared_steps(right, wrong),
            -wrong.logprob,
        )

    def turn(right: Solution) -> tuple[float, ...]:
        return made.uses(right), *_as_chosen(right)

    for right in sorted((s for s in rights if s.correct), key=turn):
        if uses and made.is_full:
            return
        if made.uses(right) <= uses:
            left = [w for w in mistakes if made.uses(w) <= uses and made.is_new(right, w)]
            left.sort(key=partial(order, right))
            # No other wrong side helps a chosen one that has a flaw of its own; one drop says so.
            flawed = flaw(_whole(right, ()), made.rules, chosen=True)
            tries = int(uses == 0) if flawed else _TRIES
            any(made.offer(_whole_pair(stage, right, wrong)) for wrong in left[:tries])


def _as_chosen(right: Solution) -> tuple[float, ...]:
    by_search = right.searched and right.chain.branch is not Branch.SAMPLE
    return not right.ended, not by_search, -right.logprob


def _preference(
    rights: Sequence[Solution], wrongs: Sequence[Solution], rules: PairSettings
) -> Callable[[Solution], float]:
    """How little a wrong solution is wanted as the rejected side, by `rules.rejected`."""
    pool = {s.solution_id: s.reward for s in (*rights, *wrongs)}
    rewards = [reward for reward in pool.values() if reward is not None]
    if rules.rejected == "likeliest" or len(rewards) < len(pool):
        return lambda solution: -solution.logprob
    if rules.rejected == "worst":
        return lambda solution: solution.reward or 0.0
    target = fmean(rewards) - 2 * pstdev(rewards)
    return lambda solution: abs((solution.reward or 0.0) - target)


def _part_late(right: Solution, wrong: Solution) -> bool:
    """Whether two solutions take the same steps and differ in their completions alone."""
    return shared_steps(right, wrong) >= max(1, min(len(right.steps), len(wrong.steps)))


def _whole(solution: Solution, ids: tuple[int, ...]) -> Side:
    return Side(
        chain_id=solution.solution_id,
        stage=solution.stage,
        model=solution.chain.model,
        text=solution.text.rstrip(),
        ids=ids,
        num_tokens=solution.num_tokens,
        logprob=solution.logprob,
        reward=solution.reward,
        solution=solution,
    )


def _whole_pair(stage: StageName, chosen: Solution, rejected: Solution) -> Proposal:
    # Engine tokens are kept where both sides end in end-of-sequence and come from one tokenizer.
    # Otherwise one side would end in a boundary, which is a difference DPO would learn.
    one_model = chosen.chain.model == rejected.chain.model
    exact = one_model and chosen.ends_in_token and rejected.ends_in_token
    first, second = (_whole(s, s.token_ids if exact else ()) for s in (chosen, rejected))
    return Proposal(stage=stage, chosen=first, rejected=second)


def _step_pairs(chains: Sequence[Chain], rules: PairSettings) -> Iterator[Proposal]:
    """Best over worst sibling at every position of the policy's chains, widest margin first."""
    found: dict[tuple[StageName, tuple[int, ...]], tuple[float, Proposal]] = {}
    for chain in chains:
        prefix, prefix_ids = "", tuple[int, ...]()
        for step in chain.steps if chain.stage is not OFF_POLICY else ():
            rewarded = [(c.reward, c) for c in step.candidates if c.reward is not None]
            best, worst = (pick(rewarded, key=itemgetter(0), default=None) for pick in (max, min))
            if best and worst and differ(best[1], worst[1], rules):
                proposal = Proposal(
                    stage=chain.stage,
                    chosen=_step_side(chain, best[1], len(prefix_ids)),
                    rejected=_step_side(chain, worst[1], len(prefix_ids)),
                    prefix=prefix,
                    prefix_ids=prefix_ids,
                )
                # Positions that Sol_max and Sol_min share count once.
                found.setdefault((chain.stage, prefix_ids), (best[0] - worst[0], proposal))
            prefix += step.candidate.text
            prefix_ids += step.candidate.token_ids
    yield from (proposal for _, proposal in sorted(found.values(), key=lambda item: -item[0]))


def differ(best: Candidate, worst: Candidate, rules: PairSettings) -> bool:
    """Whether the rewards of two siblings lie apart enough for a step-level pair.

    Rewards that are shares of K outcomes are estimates: their difference is measured in standard
    errors, both with one success and one failure added (Agresti and Caffo 2000), for with few
    outcomes the plain standard error is often 0. A step that states an answer has no error.
    """
    one, other = _estimate(best), _estimate(worst)
    if one is None or other is None:
        return (best.reward or 0.0) - (worst.reward or 0.0) >= rules.step_margin
    difference, error = one[0] - other[0], math.sqrt(one[1] + other[1])
    return difference > 0 and difference >= rules.step_errors * error


def _estimate(step: Candidate) -> tuple[float, float] | None:
    """The value of a step and the variance of that; None where a model gave the reward."""
    if not step.values or step.reward is None or step.audit is not None:
        return None
    if is_final(step):
        return step.reward, 0.0
    trials = len(step.values) + 2
    value = (sum(step.values) + 1) / trials
    return value, value * (1 - value) / trials


def _step_side(chain: Chain, candidate: Candidate, prefix_tokens: int) -> Side:
    return Side(
        chain_id=chain.chain_id,
        stage=chain.stage,
        model=chain.model,
        text=candidate.text,
        ids=candidate.token_ids,
        num_tokens=prefix_tokens + len(candidate.token_ids),
        logprob=candidate.logprob,
        reward=candidate.reward,
    )


def _pair(proposal: Proposal, problem_id: str, prompt: tuple[Message, ...]) -> PreferencePair:
    chosen, rejected = proposal.chosen, proposal.rejected
    turns = [[message.role, message.content] for message in prompt]
    content = json.dumps([turns, proposal.prefix, chosen.text, rejected.text])
    return PreferencePair(
        pair_id=blake2b(content.encode(), digest_size=16).hexdigest(),
        problem_id=problem_id,
        stage=proposal.stage,
        prompt=prompt,
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_ids=chosen.ids,
        rejected_ids=rejected.ids,
        chosen_reward=chosen.reward,
        rejected_reward=rejected.reward,
        chosen_chain=chosen.chain_id,
        rejected_chain=rejected.chain_id,
        prefix=proposal.prefix,
        prefix_ids=proposal.prefix_ids,
    )


def _dropped(pair: PreferencePair, reason: str) -> Dropped:
    return Dropped(
        pair_id=pair.pair_id,
        problem_id=pair.problem_id,
        stage=pair.stage,
        chosen_chain=pair.chosen_chain,
        rejected_chain=pair.rejected_chain,
        reason=reason,
    )
