"""SPHERE, figure 1 of arXiv 2503.04813: the three stages, and which problem goes to which.

A problem starts with self-generation. If both chains are wrong it goes to self-correction (perhaps
only a share of them), and if both are right, here or after the correction, to diversity. All other
outcomes end its way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sphere_ray.config.method import MethodSettings, SearchSettings
from sphere_ray.method.ports import Generator, Grader, Progress, Scorer
from sphere_ray.method.prompts import correction_messages, question_messages
from sphere_ray.method.search import Search, SearchResult, pruned_search, sampled_search
from sphere_ray.method.seeds import derive_seed, falls_within
from sphere_ray.records import (
    CORRECTION_CHECK,
    Branch,
    Chain,
    Outcome,
    Problem,
    Rollout,
    StageName,
    Verdict,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the stages work with: settings, engines, and the identity that seeds derive from."""

    settings: MethodSettings
    policy: Generator
    small: Generator
    scorer: Scorer
    grader: Grader
    progress: Progress
    run_seed: int
    iteration: int


async def sphere(problem: Problem, world: World, priority: int = 0) -> Rollout:
    """Take one problem through all stages; the engines serve a smaller `priority` first.

    Raises:
        RowError, EngineError, GraderError: from the ports, as they are.
    """
    rollout = Rollout(problem=problem)
    for stage in StageName:
        rollout = await enter(stage, rollout, world, priority)
    return rollout


async def enter(stage: StageName, rollout: Rollout, world: World, priority: int = 0) -> Rollout:
    """Run one stage if the rollout is routed to it; return any other rollout as it is.

    `sphere` is this for each stage in order. A caller that runs the stages apart gives a problem
    the same `priority` in all of them, so that it keeps its rank.

    Raises:
        RowError, EngineError, GraderError: from the ports, as they are.
    """
    if rollout.error is not None or stage not in world.settings.taken_stages:
        return rollout
    outcome = rollout.outcome
    match stage:
        case StageName.SELF_GENERATION if outcome is None:
            return await self_generate(rollout, world, priority)
        case StageName.SELF_CORRECTION if outcome is Outcome.BOTH_WRONG:
            return await self_correct(rollout, world, priority)
        case StageName.SELF_CORRECTION if outcome is Outcome.BOTH_RIGHT:
            return await check_correction(rollout, world, priority)
        case StageName.DIVERSITY if outcome is Outcome.BOTH_RIGHT:
            return await diversify(rollout, world, priority)
    return rollout


async def self_generate(rollout: Rollout, world: World, priority: int) -> Rollout:
    """Stage 1: the policy searches for Sol_max and Sol_min, or samples whole chains."""
    search = _search(rollout.problem, world, StageName.SELF_GENERATION, priority)
    if world.settings.search.strategy == "sampled":
        result = await sampled_search(search)
        outcome = _outcome_of_samples(result.chains)
    else:
        result = await pruned_search(search)
        outcome = _outcome(result.chains)
    return _extended(rollout, result, search.stage, outcome)


async def self_correct(rollout: Rollout, world: World, priority: int) -> Rollout:
    """Stage 2: the policy sees its own wrong Sol_max and searches again.

    Only a share of the problems is tried, by their ids; the others end here.
    """
    share = world.settings.stages.correction_share
    if not _falls_within(share, rollout, world, StageName.SELF_CORRECTION):
        return rollout
    result = await _corrected(rollout, world, priority)
    outcome = _outcome(result.chains) if result.chains else Outcome.NO_ATTEMPT
    return _extended(rollout, result, StageName.SELF_CORRECTION, outcome)


async def check_correction(rollout: Rollout, world: World, priority: int) -> Rollout:
    """For a small share of the right solutions: does the policy give them up when called wrong?

    This measures how often self-correction spoils a right solution. Its chains make no pairs.
    """
    share = world.settings.stages.correction_check_share
    if not _falls_within(share, rollout, world, CORRECTION_CHECK):
        return rollout
    result = await _corrected(rollout, world, priority)
    return _extended(rollout, result, CORRECTION_CHECK, _fate(result.chains[0]))


async def diversify(rollout: Rollout, world: World, priority: int) -> Rollout:
    """Stage 3: the smaller model searches for a plausible mistake, with `small_budget` candidates.

    The outcome is a pair if one of its chains is wrong: the policy's right chain is the chosen
    side.
    """
    search = replace(
        _search(rollout.problem, world, StageName.DIVERSITY, priority),
        generator=world.small,
        settings=_small_search(world.settings),
    )
    result = await pruned_search(search)
    mistaken = any(_is_decided(chain) and not chain.correct for chain in result.chains)
    outcome = Outcome.PAIR if mistaken else Outcome.BOTH_RIGHT
    return _extended(rollout, result, search.stage, outcome)


def _falls_within(share: float, rollout: Rollout, world: World, purpose: str) -> bool:
    identity = (world.run_seed, world.iteration, rollout.problem.problem_id, purpose)
    return falls_within(share, *identity)


def _outcome(chains: Sequence[Chain]) -> Outcome:
    """The outcome of Sol_max and Sol_min, in this order."""
    best, worst = chains
    if not all(_is_decided(chain) for chain in chains):
        return Outcome.UNDECIDED
    if best.correct:
        return Outcome.BOTH_RIGHT if worst.correct else Outcome.PAIR
    return Outcome.INVERSION if worst.correct else Outcome.BOTH_WRONG


def _fate(corrected: Chain) -> Outcome:
    if not _is_decided(corrected):
        return Outcome.UNDECIDED
    return Outcome.KEPT if corrected.correct else Outcome.LOST


def _outcome_of_samples(chains: Sequence[Chain]) -> Outcome:
    right = [chain.correct for chain in chains if _is_decided(chain)]
    if not right:
        return Outcome.UNDECIDED
    if all(right):
        return Outcome.ALL_RIGHT
    return Outcome.PAIR if any(right) else Outcome.ALL_WRONG


def _is_decided(chain: Chain) -> bool:
    return chain.verdict not in (Verdict.UNGRADABLE, Verdict.TIMEOUT)


async def _corrected(rollout: Rollout, world: World, priority: int) -> SearchResult:
    """Search again from a prompt that shows stage 1's attempt; no chains if there is none.

    The attempt is Sol_max, or Sol_min where Sol_max is empty.
    """
    attempts = sorted(
        (chain for chain in rollout.chains if chain.stage is StageName.SELF_GENERATION),
        key=lambda chain: chain.branch is not Branch.MAX,
    )
    attempt = next((chain for chain in attempts if chain.text.strip()), None)
    if attempt is None:
        return SearchResult(chains=(), tokens=0)
    search = replace(
        _search(rollout.problem, world, StageName.SELF_CORRECTION, priority),
        prompt=correction_messages(rollout.problem.question, attempt.text, world.settings.prompts),
        parent_id=attempt.chain_id,
    )
    return await pruned_search(search)


def _small_search(settings: MethodSettings) -> SearchSettings:
    search, stages = settings.search, settings.stages
    changes = {
        "num_candidates": stages.small_budget * search.num_candidates,
        "temperature": stages.small_temperature or search.temperature,
    }
    return search.model_copy(update=changes)


def _search(problem: Problem, world: World, stage: StageName, priority: int) -> Search:
    """The search of a stage from the plain question by the policy."""
    question = question_messages(problem.question, world.settings.prompts)
    return Search(
        problem=problem,
        stage=stage,
        prompt=question,
        question=question,
        settings=world.settings.search,
        generator=world.policy,
        scorer=world.scorer,
        grader=world.grader,
        progress=world.progress,
        search_id=f"{problem.problem_id}:{world.iteration}:{stage}",
        seed=derive_seed(world.run_seed, world.iteration, problem.problem_id, stage),
        priority=priority,
    )


def _extended(rollout: Rollout, result: SearchResult, stage: str, outcome: Outcome) -> Rollout:
    return replace(
        rollout,
        chains=(*rollout.chains, *result.chains),
        route=(*rollout.route, f"{stage}:{outcome}"),
        tokens=rollout.tokens + result.tokens,
        stage_tokens=(*rollout.stage_tokens, result.tokens),
    )
