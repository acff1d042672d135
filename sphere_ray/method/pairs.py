"""Preference pairs: which chains and steps are paired, and the gates that drop a pair by reason.

A pure function of the recorded rollout, so old rollouts are re-paired by new rules without any
generation. Training-time facts (tokenizers, end-of-sequence ids) are not known here.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import product

from sphere_ray.config.method import MethodSettings, PairSettings
from sphere_ray.method.prompts import question_messages
from sphere_ray.records import (
    Branch,
    Candidate,
    Chain,
    FinishReason,
    Message,
    PreferencePair,
    Rollout,
    StageName,
    Step,
    StopReason,
    Verdict,
)

_WRONG = frozenset({Verdict.WRONG, Verdict.NO_ANSWER, Verdict.TRUNCATED})

# What gives a corrected solution away as an answer to an attempt the trained prompt never shows.
_ATTEMPT = re.compile(
    r"\b(?:previous|earlier|original|prior|initial|above|wrong|incorrect|failed)"
    r"\s+(?:attempt|solution|answer|response|reasoning|calculation|approach|work|statement)s?\b"
    r"|\battempts?\b|\b(?:mistake|error)s?\b|\bmistaken(?:ly)?\b"
    r"|\b(?:was|were|is|are)\s+(?:wrong|incorrect|not\s+correct)\b"
    r"|\bapolog(?:y|ies|ize|ise)\b|\bcorrected\b|\bcorrect(?:ing)?\s+(?:the|this|that|it)\b"
    r"|\bsolve\s+\w+(?:\s+\w+)?\s+again\b|\btry\s+again\b|\bstart(?:ing)?\s+over\b"
    r"|\bre-?(?:solve|solving|do|try|examine|check|consider)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One side of a proposed pair; `ids` are empty where the trainer must tokenise the text."""

    text: str
    ids: tuple[int, ...]
    num_tokens: int
    reward: float | None
    chain: Chain


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proposal:
    stage: StageName
    chosen: _Side
    rejected: _Side
    prefix: str = ""
    prefix_ids: tuple[int, ...] = ()
    whole: bool = True

    @property
    def sides(self) -> tuple[_Side, _Side]:
        return self.chosen, self.rejected


def build_pairs(rollout: Rollout, settings: MethodSettings) -> Rollout:
    """Return the rollout with `pairs` and `dropped` made anew from its chains; order is stable.

    Whole-chain pairs come before step pairs. A failed rollout keeps neither.
    """
    pairs: dict[str, PreferencePair] = {}
    dropped: list[str] = []
    proposals = () if rollout.error is not None else _proposals(rollout, settings.pairs)
    prompt = question_messages(rollout.problem.question, settings.prompts)
    for proposal in proposals:
        pair = _pair(proposal, rollout.problem.problem_id, prompt)
        reason = _refusal(proposal, settings.pairs)
        if reason is None and pair.pair_id in pairs:
            reason = "duplicate"
        if reason is None and len(pairs) >= settings.pairs.max_per_problem:
            reason = "per_problem_cap"
        if reason is None:
            pairs[pair.pair_id] = pair
        else:
            dropped.append(reason)
    return replace(rollout, pairs=tuple(pairs.values()), dropped=tuple(dropped))


def cap_off_policy(
    pairs: Sequence[PreferencePair], settings: PairSettings
) -> tuple[tuple[PreferencePair, ...], Mapping[str, int]]:
    """Drop duplicates across problems, then stage-3 pairs above their share of an iteration.

    The result is ordered by pair id, whatever the order of `pairs`; ids are content hashes, so
    which off-policy pairs stay is arbitrary but fixed. Returns the kept pairs and the dropped
    counts by reason.
    """
    ordered = sorted(pairs, key=lambda p: (p.pair_id, _is_off_policy(p), p.problem_id))
    unique: dict[str, PreferencePair] = {}
    for pair in ordered:
        unique.setdefault(pair.pair_id, pair)
    room = _off_policy_room(unique.values(), settings.max_off_policy_share)
    kept = []
    for pair in unique.values():
        if _is_off_policy(pair):
            if room <= 0:
                continue
            room -= 1
        kept.append(pair)
    dropped = Counter(duplicate=len(pairs) - len(unique), off_policy_cap=len(unique) - len(kept))
    return tuple(kept), dict(+dropped)


def is_distant(first: str, second: str, distance: int) -> bool:
    """Whether the Levenshtein distance in characters is at least `distance`, exactly.

    Ukkonen's diagonals (1985): at most `distance` rounds, each extending what it can reach, so
    similar and different texts are both cheap. O(distance * length) at worst.
    """
    if abs(len(first) - len(second)) >= distance:
        return True
    # reach[d]: how much of `first` can be consumed ending on diagonal d = position in `second`
    # minus position in `first`, with the edits of this round.
    reach = {0: _common_prefix(first, second, 0, 0)}
    goal = len(second) - len(first)
    for edits in range(1, distance):
        if reach.get(goal) == len(first):
            return False
        reach = {
            diagonal: _extended_reach(first, second, diagonal, reach)
            for diagonal in range(max(-edits, -len(first)), min(edits, len(second)) + 1)
        }
    return reach.get(goal) != len(first)


def _extended_reach(first: str, second: str, diagonal: int, reach: Mapping[int, int]) -> int:
    substituted = reach.get(diagonal, -1) + 1
    inserted = reach.get(diagonal - 1, 0)
    deleted = reach.get(diagonal + 1, -1) + 1
    start = min(max(substituted, inserted, deleted), len(first), len(second) - diagonal)
    return start + _common_prefix(first, second, start, start + diagonal)


def _common_prefix(first: str, second: str, i: int, j: int) -> int:
    start = i
    while i < len(first) and j < len(second) and first[i] == second[j]:
        i, j = i + 1, j + 1
    return i - start


def _proposals(rollout: Rollout, settings: PairSettings) -> Iterator[_Proposal]:
    # A solution that was right and shown as wrong (correction check) measures, it never teaches.
    right = {chain.chain_id for chain in rollout.chains if chain.correct}
    chains = [chain for chain in rollout.chains if chain.parent_id not in right]
    if settings.level != "step":
        yield from _searched_pairs(chains)
        yield from _small_model_pairs(chains)
        yield from _sampled_pairs(chains)
    if settings.level != "chain":
        yield from _step_pairs(chains, settings.step_margin)


def _searched_pairs(chains: Sequence[Chain]) -> Iterator[_Proposal]:
    """Stages 1 and 2: Sol_max is right and Sol_min is not."""
    for stage in (StageName.SELF_GENERATION, StageName.SELF_CORRECTION):
        for best, worst in product(
            _select(chains, stage, Branch.MAX), _select(chains, stage, Branch.MIN)
        ):
            if best.correct and not worst.correct:
                yield _whole_pair(stage, best, worst)


def _small_model_pairs(chains: Sequence[Chain]) -> Iterator[_Proposal]:
    """Stage 3: the policy's right Sol_max over the small model's mistakes, Sol_min first."""
    rights = [
        chain
        for stage in (StageName.SELF_GENERATION, StageName.SELF_CORRECTION)
        for chain in _select(chains, stage, Branch.MAX)
        if chain.correct
    ]
    for branch in (Branch.MIN, Branch.MAX):
        for mistake in _select(chains, StageName.DIVERSITY, branch):
            if rights and not mistake.correct:
                yield _whole_pair(StageName.DIVERSITY, rights[0], mistake)


def _sampled_pairs(chains: Sequence[Chain]) -> Iterator[_Proposal]:
    """Outcome-only pairs of samples: likeliest right with likeliest wrong, then the next two.

    Each sample is used once; wrong samples that were cut come last.
    """
    samples = sorted(
        _select(chains, StageName.SELF_GENERATION, Branch.SAMPLE),
        key=lambda chain: (not _ended(chain), -chain.steps[-1].candidate.logprob),
    )
    rights = [chain for chain in samples if chain.correct]
    wrongs = [chain for chain in samples if not chain.correct]
    for right, wrong in zip(rights, wrongs, strict=False):
        yield _whole_pair(StageName.SELF_GENERATION, right, wrong)


def _step_pairs(chains: Sequence[Chain], margin: float) -> list[_Proposal]:
    """Best over worst sibling at every position of the policy's chains, widest margin first."""
    found: dict[tuple[StageName, tuple[int, ...]], tuple[float, _Proposal]] = {}
    for chain in chains:
        if chain.stage is StageName.DIVERSITY:
            continue
        for depth, step in enumerate(chain.steps):
            proposal = _step_pair(chain, depth, step)
            if proposal is None:
                continue
            gap = (proposal.chosen.reward or 0.0) - (proposal.rejected.reward or 0.0)
            # Positions that Sol_max and Sol_min share count once.
            if gap >= margin:
                found.setdefault((chain.stage, proposal.prefix_ids), (gap, proposal))
    return [proposal for _, proposal in sorted(found.values(), key=lambda item: -item[0])]


def _step_pair(chain: Chain, depth: int, step: Step) -> _Proposal | None:
    rewards = {i: c.reward for i, c in enumerate(step.candidates) if c.reward is not None}
    if len(rewards) < 2:
        return None
    prefix = [parent.candidate for parent in chain.steps[:depth]]
    prefix_ids = tuple(i for candidate in prefix for i in candidate.token_ids)
    best, worst = (
        _step_side(chain, step.candidates[i], len(prefix_ids))
        for i in (max(rewards, key=rewards.__getitem__), min(rewards, key=rewards.__getitem__))
    )
    return _Proposal(
        stage=chain.stage,
        chosen=best,
        rejected=worst,
        prefix="".join(candidate.text for candidate in prefix),
        prefix_ids=prefix_ids,
        whole=False,
    )


def _step_side(chain: Chain, candidate: Candidate, prefix_tokens: int) -> _Side:
    return _Side(
        text=candidate.text,
        ids=candidate.token_ids,
        num_tokens=prefix_tokens + len(candidate.token_ids),
        reward=candidate.reward,
        chain=chain,
    )


def _whole_pair(stage: StageName, chosen: Chain, rejected: Chain) -> _Proposal:
    # Engine tokens are kept where both sides end in end-of-sequence and come from one tokenizer.
    # Otherwise one side would end in a boundary, which is a difference DPO would learn.
    exact = chosen.model == rejected.model and _ends_in_token(chosen) and _ends_in_token(rejected)
    first, second = (
        _Side(
            text=chain.text.rstrip(),
            ids=chain.token_ids if exact else (),
            num_tokens=chain.num_tokens,
            reward=chain.reward,
            chain=chain,
        )
        for chain in (chosen, rejected)
    )
    return _Proposal(stage=stage, chosen=first, rejected=second)


def _refusal(proposal: _Proposal, settings: PairSettings) -> str | None:
    """The first gate the proposal fails; None if it passes all that look at it alone."""
    chosen, rejected = proposal.sides
    if proposal.whole and not (chosen.chain.correct and rejected.chain.verdict in _WRONG):
        return "outcome"
    if proposal.whole and not all(_ended(side.chain) for side in proposal.sides):
        return "not_terminated"
    shorter, longer = sorted(side.num_tokens for side in proposal.sides)
    if longer > settings.max_tokens:
        return "too_long"
    if settings.max_length_ratio and longer > settings.max_length_ratio * shorter:
        return "length_ratio"
    if any(_refers_to_attempt(side, proposal.prefix) for side in proposal.sides):
        return "refers_to_attempt"
    if not is_distant(chosen.text.strip(), rejected.text.strip(), settings.min_edit_distance):
        return "too_similar"
    return None


def _refers_to_attempt(side: _Side, prefix: str) -> bool:
    corrected = side.chain.stage is StageName.SELF_CORRECTION
    return corrected and _ATTEMPT.search(prefix + side.text) is not None


def _pair(proposal: _Proposal, problem_id: str, prompt: tuple[Message, ...]) -> PreferencePair:
    chosen, rejected = proposal.sides
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
        chosen_chain=chosen.chain.chain_id,
        rejected_chain=rejected.chain.chain_id,
        prefix=proposal.prefix,
        prefix_ids=proposal.prefix_ids,
    )


def _select(chains: Sequence[Chain], stage: StageName, branch: Branch) -> list[Chain]:
    return [chain for chain in chains if chain.stage is stage and chain.branch is branch]


def _ended(chain: Chain) -> bool:
    return chain.finish_reason is FinishReason.ANSWER


def _ends_in_token(chain: Chain) -> bool:
    return bool(chain.steps) and chain.steps[-1].candidate.stop_reason is StopReason.END


def _is_off_policy(pair: PreferencePair) -> bool:
    return pair.stage is StageName.DIVERSITY


def _off_policy_room(pairs: Collection[PreferencePair], share: float) -> int:
    """The largest number of off-policy pairs that is at most `share` of all kept pairs."""
    if share >= 1:
        return len(pairs)
    on_policy = sum(not _is_off_policy(pair) for pair in pairs)
    return math.floor(share * on_policy / (1 - share) + 1e-9)
