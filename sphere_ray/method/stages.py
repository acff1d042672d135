"""The three stages of SPHERE: self-generation, self-correction, diversity; one coroutine each.

A stage takes a rollout and returns a new one; a rollout that failed or is not routed to the stage
passes through untouched. `Rollout.route` lists what happened as `stage:outcome`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from sphere_ray.config.method import MethodSettings, SearchSettings
from sphere_ray.method.ports import Generator, Grader, Progress, Scorer
from sphere_ray.method.prompts import correction_messages, question_messages
from sphere_ray.method.search import Search, pruned_search, sampled_search
from sphere_ray.method.seeds import derive_seed, falls_within
from sphere_ray.records import Branch, Chain, Message, Problem, Rollout, StageName, Verdict

CORRECTION_CHECK = "correction_check"


class Outcome(StrEnum):
    """What the chains of a stage came to; the second half of a route entry."""

    PAIR = "pair"
    BOTH_WRONG = "both_wrong"
    BOTH_RIGHT = "both_right"
    INVERSION = "inversion"
    """Sol_max wrong and Sol_min right: the scorer misjudged."""
    ALL_WRONG = "all_wrong"
    ALL_RIGHT = "all_right"
    """The last two belong to sampled chains, which no later stage takes up."""
    UNDECIDED = "undecided"
    """The grader could not tell: an answer or gold it cannot read, or its time was up."""
    NO_ATTEMPT = "no_attempt"
    """Self-correction had nothing to show: no first step was plausible."""
    KEPT = "kept"
    LOST = "lost"
    """Whether a right solution survived being called wrong (`correction_check`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the stages work with: settings, engines, and the identity that seeds derive from."""

    settings: MethodSettings
    policy: Generator
    small: Generator
    scorer: Scorer
    grader: Grader
    progress: Progress
    run_seed: int
    iteration: int


async def self_generate(rollout: Rollout, context: Context, priority: int = 0) -> Rollout:
    """Stage 1: the policy searches for Sol_max and Sol_min, or samples whole chains.

    Raises:
        RowError, EngineError, GraderError: from the ports, as they are.
    """
    if rollout.error is not None:
        return rollout
    search = _search(rollout.problem, context, StageName.SELF_GENERATION, priority)
    if context.settings.search.strategy == "sampled":
        result = await sampled_search(search)
        outcome = _outcome_of_samples(result.chains)
    else:
        result = await pruned_search(search)
        outcome = _outcome(result.chains)
    return _extended(rollout, result.chains, result.tokens, route_entry(search.stage, outcome))


async def self_correct(rollout: Rollout, context: Context, priority: int = 0) -> Rollout:
    """Stage 2: where both chains are wrong, the policy sees its own Sol_max and searches again.

    A small share of the both-right problems goes through the same search as a check, to measure
    how often a right solution is given up (correct-to-wrong); its chains make no pairs.

    Raises:
        RowError, EngineError, GraderError: from the ports, as they are.
    """
    if rollout.error is not None or not _is_taken(StageName.SELF_CORRECTION, context):
        return rollout
    failed = _came_to(rollout, StageName.SELF_GENERATION, Outcome.BOTH_WRONG)
    if not failed and not _is_checked(rollout, context):
        return rollout
    attempt = _attempt(rollout)
    if attempt is None:
        entry = route_entry(StageName.SELF_CORRECTION, Outcome.NO_ATTEMPT)
        return _extended(rollout, (), 0, entry)
    prompt = correction_messages(rollout.problem.question, attempt.text, context.settings.prompts)
    search = replace(
        _search(rollout.problem, context, StageName.SELF_CORRECTION, priority),
        prompt=prompt,
        parent_id=attempt.chain_id,
    )
    result = await pruned_search(search)
    if failed:
        entry = route_entry(search.stage, _outcome(result.chains))
    else:
        entry = route_entry(CORRECTION_CHECK, _fate(result.chains[0]))
    return _extended(rollout, result.chains, result.tokens, entry)


async def diversify(rollout: Rollout, context: Context, priority: int = 0) -> Rollout:
    """Stage 3: where both chains are right, the smaller model searches for a plausible mistake.

    It is given `small_budget` times the candidates. The route says `pair` if one of its chains is
    wrong; the policy's right chain is the chosen side.

    Raises:
        RowError, EngineError, GraderError: from the ports, as they are.
    """
    both_right = any(
        _came_to(rollout, stage, Outcome.BOTH_RIGHT)
        for stage in (StageName.SELF_GENERATION, StageName.SELF_CORRECTION)
    )
    taken = _is_taken(StageName.DIVERSITY, context)
    if rollout.error is not None or not taken or not both_right:
        return rollout
    search = replace(
        _search(rollout.problem, context, StageName.DIVERSITY, priority),
        generator=context.small,
        settings=_small_search(context.settings),
    )
    result = await pruned_search(search)
    mistaken = any(_is_decided(chain) and not chain.correct for chain in result.chains)
    outcome = Outcome.PAIR if mistaken else Outcome.BOTH_RIGHT
    return _extended(rollout, result.chains, result.tokens, route_entry(search.stage, outcome))


def route_entry(stage: str, outcome: Outcome) -> str:
    """Return the entry of `Rollout.route` for a stage (or `CORRECTION_CHECK`) and its outcome."""
    return f"{stage}:{outcome}"


def _outcome(chains: Sequence[Chain]) -> Outcome:
    """What Sol_max and Sol_min, in this order, came to."""
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


def _is_taken(stage: StageName, context: Context) -> bool:
    return stage in context.settings.taken_stages


def _came_to(rollout: Rollout, stage: StageName, outcome: Outcome) -> bool:
    return route_entry(stage, outcome) in rollout.route


def _is_checked(rollout: Rollout, context: Context) -> bool:
    """Whether this both-right problem is in the share that measures correct-to-wrong."""
    if not _came_to(rollout, StageName.SELF_GENERATION, Outcome.BOTH_RIGHT):
        return False
    return falls_within(
        context.settings.stages.correction_check_share,
        *(context.run_seed, context.iteration, rollout.problem.problem_id, CORRECTION_CHECK),
    )


def _attempt(rollout: Rollout) -> Chain | None:
    """Sol_max of stage 1, or Sol_min where Sol_max is empty."""
    attempts = sorted(
        (chain for chain in rollout.chains if chain.stage is StageName.SELF_GENERATION),
        key=lambda chain: chain.branch is not Branch.MAX,
    )
    return next((chain for chain in attempts if chain.text.strip()), None)


def _small_search(settings: MethodSettings) -> SearchSettings:
    search, stages = settings.search, settings.stages
    changes = {
        "num_candidates": stages.small_budget * search.num_candidates,
        "temperature": stages.small_temperature or search.temperature,
    }
    return search.model_copy(update=changes)


def _search(problem: Problem, context: Context, stage: StageName, priority: int) -> Search:
    """The search of a stage from the plain question by the policy."""
    question: tuple[Message, ...] = question_messages(problem.question, context.settings.prompts)
    return Search(
        problem=problem,
        stage=stage,
        prompt=question,
        question=question,
        settings=context.settings.search,
        generator=context.policy,
        scorer=context.scorer,
        grader=context.grader,
        progress=context.progress,
        search_id=f"{problem.problem_id}:{context.iteration}:{stage}",
        seed=derive_seed(context.run_seed, context.iteration, problem.problem_id, stage),
        priority=priority,
    )


def _extended(rollout: Rollout, chains: tuple[Chain, ...], tokens: int, entry: str) -> Rollout:
    return replace(
        rollout,
        chains=(*rollout.chains, *chains),
        route=(*rollout.route, entry),
        tokens=rollout.tokens + tokens,
    )
