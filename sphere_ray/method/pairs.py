"""Preference pairs: which chains and steps are paired, and the gates that drop a pair by reason.

A pure function of the recorded rollout, so old rollouts are re-paired by new rules without any
generation. Training-time facts (tokenizers, end-of-sequence ids) are not known here.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from operator import itemgetter

import pyarrow as pa
import pyarrow.compute as pc
from rapidfuzz.distance import Levenshtein

from sphere_ray.config.method import MethodSettings, PairSettings
from sphere_ray.method.prompts import question_messages, refers_to_attempt
from sphere_ray.records import (
    Branch,
    Candidate,
    Chain,
    Dropped,
    FinishReason,
    Message,
    PreferencePair,
    Rollout,
    StageName,
    StopReason,
    Verdict,
)

OFF_POLICY = StageName.DIVERSITY
"""The stage of the pairs whose rejected side the small model wrote."""
_ON_POLICY = tuple(stage for stage in StageName if stage is not OFF_POLICY)
_WRONG = frozenset({Verdict.WRONG, Verdict.NO_ANSWER, Verdict.TRUNCATED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """What the chains of one problem gave: pairs to train on, and the proposals a gate refused."""

    pairs: tuple[PreferencePair, ...]
    dropped: tuple[Dropped, ...]


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

    @property
    def sides(self) -> tuple[_Side, _Side]:
        return self.chosen, self.rejected

    @property
    def whole(self) -> bool:
        """Whether whole chains are compared; the sides of a step pair are steps of one chain."""
        return self.chosen.chain is not self.rejected.chain


def build_pairs(rollout: Rollout, settings: MethodSettings) -> Paired:
    """Pair the chains of a rollout; whole-chain pairs come before step pairs.

    The order is stable. A failed rollout gives nothing.
    """
    pairs: dict[str, PreferencePair] = {}
    dropped: list[Dropped] = []
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
            dropped.append(_dropped(pair, reason))
    return Paired(pairs=tuple(pairs.values()), dropped=tuple(dropped))


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
    if room == 0:
        return ""
    ids = off_policy_ids.combine_chunks()
    last = pc.partition_nth_indices(ids, pivot=room - 1)[room - 1]
    cut: str = ids[last.as_py()].as_py()
    return cut


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
    """Every stage of the policy: Sol_max is right and Sol_min is not."""
    for stage in _ON_POLICY:
        for best, worst in product(
            _select(chains, stage, Branch.MAX), _select(chains, stage, Branch.MIN)
        ):
            if best.correct and not worst.correct:
                yield _whole_pair(stage, best, worst)


def _small_model_pairs(chains: Sequence[Chain]) -> Iterator[_Proposal]:
    """Stage 3: the policy's right Sol_max over the small model's mistakes, Sol_min first."""
    rights = [
        chain
        for stage in _ON_POLICY
        for chain in _select(chains, stage, Branch.MAX)
        if chain.correct
    ]
    for branch in (Branch.MIN, Branch.MAX):
        for mistake in _select(chains, OFF_POLICY, branch):
            if rights and not mistake.correct:
                yield _whole_pair(OFF_POLICY, rights[0], mistake)


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
        prefix, prefix_ids = "", tuple[int, ...]()
        for step in chain.steps if chain.stage is not OFF_POLICY else ():
            rewarded = [(c.reward, c) for c in step.candidates if c.reward is not None]
            best, worst = (pick(rewarded, key=itemgetter(0), default=None) for pick in (max, min))
            if best and worst and best[0] - worst[0] >= margin:
                proposal = _Proposal(
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
    return [proposal for _, proposal in sorted(found.values(), key=lambda item: -item[0])]


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
    corrected = [side for side in proposal.sides if side.chain.stage is StageName.SELF_CORRECTION]
    if any(refers_to_attempt(proposal.prefix + side.text) for side in corrected):
        return "refers_to_attempt"
    least, texts = settings.min_edit_distance, (chosen.text.strip(), rejected.text.strip())
    if Levenshtein.distance(*texts, score_cutoff=least) < least:
        return "too_similar"
    return None


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


def _dropped(pair: PreferencePair, reason: str) -> Dropped:
    return Dropped(
        pair_id=pair.pair_id,
        problem_id=pair.problem_id,
        stage=pair.stage,
        chosen_chain=pair.chosen_chain,
        rejected_chain=pair.rejected_chain,
        reason=reason,
    )


def _select(chains: Sequence[Chain], stage: StageName, branch: Branch) -> list[Chain]:
    return [chain for chain in chains if chain.stage is stage and chain.branch is branch]


def _ended(chain: Chain) -> bool:
    return chain.finish_reason is FinishReason.ANSWER


def _ends_in_token(chain: Chain) -> bool:
    return bool(chain.steps) and chain.steps[-1].candidate.stop_reason is StopReason.END
