"""Pruned step search: the best path (Sol_max) and the worst still plausible one (Sol_min).

At each step the policy proposes E candidates, each is scored, and only the best and the worst go
on (SPHERE stage 1, arXiv 2503.04813). Whole-chain sampling, the baseline, is here too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sphere_ray.config.method import SearchSettings
from sphere_ray.errors import EngineError
from sphere_ray.method.concurrency import gather_or_cancel
from sphere_ray.method.ports import (
    GenerateRequest,
    Generator,
    Grade,
    Grader,
    Progress,
    Scorer,
    ScoreRequest,
)
from sphere_ray.method.seeds import derive_seed
from sphere_ray.method.steps import is_final, is_plausible
from sphere_ray.records import (
    Branch,
    Candidate,
    Chain,
    FinishReason,
    Message,
    Problem,
    StageName,
    Step,
    StopReason,
    Verdict,
)

_BOTH = (Branch.MAX, Branch.MIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One search: the question, whom to ask, and within which limits.

    `prompt` is what the generator sees, `question` the plain question (what the scorer judges
    against); they differ in self-correction. `search_id` prefixes the ids of the chains.
    """

    problem: Problem
    stage: StageName
    prompt: tuple[Message, ...]
    question: tuple[Message, ...]
    settings: SearchSettings
    generator: Generator
    scorer: Scorer
    grader: Grader
    progress: Progress
    search_id: str
    seed: int
    parent_id: str | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The chains a search found, and every token decoded for them (the scorer's included)."""

    chains: tuple[Chain, ...]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Path:
    branch: Branch
    steps: tuple[Step, ...]
    finish_reason: FinishReason


async def pruned_search(search: Search) -> SearchResult:
    """Search for Sol_max and Sol_min; returns two chains, in this order.

    Both branches share their candidates until the best and the worst step differ (normally at
    depth 1), then grow independently. If they never differ, the two chains are identical.

    Raises:
        RowError, EngineError, GraderError: from the ports, as they are.
    """
    paths, tokens = await _grow(search, (), _BOTH)
    chains = await gather_or_cancel(_graded(search, path, path.branch) for path in paths)
    return SearchResult(chains=chains, tokens=tokens)


async def sampled_search(search: Search) -> SearchResult:
    """Sample `num_samples` whole chains of one step each, without a scorer (the baseline).

    Raises:
        RowError, EngineError, GraderError: from the ports, as they are.
    """
    settings = search.settings
    request = GenerateRequest(
        problem_id=search.problem.problem_id,
        messages=search.prompt,
        n=settings.num_samples,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_chain_tokens,
        seed=derive_seed(search.seed, Branch.SAMPLE),
        priority=search.priority,
    )
    samples = await _generate(search, request)
    paths = [
        _Path(
            branch=Branch.SAMPLE,
            steps=(Step(candidates=(sample,), chosen=0),),
            finish_reason=_end_of_sample(sample),
        )
        for sample in samples
    ]
    chains = await gather_or_cancel(
        _graded(search, path, f"{path.branch}-{i}") for i, path in enumerate(paths)
    )
    return SearchResult(chains=chains, tokens=_num_tokens(samples))


def best_and_worst(
    candidates: Sequence[Candidate], settings: SearchSettings
) -> tuple[int, int] | None:
    """Return the positions of the best and the worst plausible candidate; None if there is none.

    Rewards within `tie_tolerance` of the extreme are a tie: the best is then the likeliest, the
    worst the least likely (mean log-prob), and the earlier. They differ unless only one
    candidate is plausible. Candidates without a reward are never chosen.
    """
    rewards = {
        i: candidate.reward
        for i, candidate in enumerate(candidates)
        if candidate.reward is not None and is_plausible(candidate)
    }
    if not rewards:
        return None
    top = max(rewards.values()) - settings.tie_tolerance
    best = max(
        (i for i, reward in rewards.items() if reward >= top),
        key=lambda i: candidates[i].logprob,
    )
    others = {i: reward for i, reward in rewards.items() if i != best} or rewards
    bottom = min(others.values()) + settings.tie_tolerance
    worst = min(
        (i for i, reward in others.items() if reward <= bottom),
        key=lambda i: candidates[i].logprob,
    )
    return best, worst


async def _grow(
    search: Search, steps: tuple[Step, ...], branches: tuple[Branch, ...]
) -> tuple[list[_Path], int]:
    """Grow one path for all `branches` until best and worst step differ, then one path for each.

    Returns the complete paths and the tokens they cost.
    """
    tokens = 0
    while (finish := _end_of_path(steps, search.settings)) is None:
        candidates, spent = await _propose(search, steps, branches)
        tokens += spent
        kept = best_and_worst(candidates, search.settings)
        if kept is None:
            finish = _dead_end(candidates, steps)
            break
        following = {
            branch: (*steps, Step(candidates=candidates, chosen=chosen))
            for branch, chosen in zip(_BOTH, kept, strict=True)
        }
        if len(branches) > 1 and kept[0] != kept[1]:
            grown = await gather_or_cancel(_grow(search, following[b], (b,)) for b in branches)
            paths = [path for each, _ in grown for path in each]
            return paths, tokens + sum(spent for _, spent in grown)
        steps = following[branches[0]]
    return [_Path(branch=b, steps=steps, finish_reason=finish) for b in branches], tokens


async def _propose(
    search: Search, steps: tuple[Step, ...], branches: tuple[Branch, ...]
) -> tuple[tuple[Candidate, ...], int]:
    """Return the distinct next steps, the plausible ones scored, and the tokens they cost."""
    settings = search.settings
    prefix = tuple(step.candidate for step in steps)
    seed = derive_seed(search.seed, *branches, len(steps))
    asked = GenerateRequest(
        problem_id=search.problem.problem_id,
        messages=search.prompt,
        prefix_ids=tuple(i for candidate in prefix for i in candidate.token_ids),
        n=settings.num_candidates,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=min(settings.max_step_tokens, settings.max_chain_tokens - _num_tokens(prefix)),
        stop=(settings.boundary,),
        seed=seed,
        priority=search.priority,
    )
    proposed = await _generate(search, asked)
    distinct = _merged(proposed)
    if settings.top_up and len(distinct) < asked.n:
        # Once only: where the policy is nearly certain, every further request would be in vain.
        more = replace(asked, n=asked.n - len(distinct), seed=derive_seed(seed, "top up"))
        proposed += await _generate(search, more)
        distinct = _merged(proposed)
    plausible = [i for i, c in enumerate(distinct) if is_plausible(c)]
    request = ScoreRequest(
        problem=search.problem,
        messages=search.question,
        prefix=prefix,
        candidates=tuple(distinct[i] for i in plausible),
        seed=derive_seed(seed, "score"),
        priority=search.priority,
    )
    scored, spent = await _score(search, request)
    rewarded = dict(zip(plausible, scored, strict=True))
    candidates = tuple(rewarded.get(i, c) for i, c in enumerate(distinct))
    return candidates, _num_tokens(proposed) + spent


def _merged(proposed: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Keep the first of identical siblings: the rest would be scored for nothing."""
    distinct: dict[tuple[str, StopReason], Candidate] = {}
    for candidate in proposed:
        distinct.setdefault((" ".join(candidate.text.split()), candidate.stop_reason), candidate)
    return tuple(distinct.values())


async def _generate(search: Search, request: GenerateRequest) -> tuple[Candidate, ...]:
    candidates = await search.generator.generate(request)
    if len(candidates) != request.n:
        raise EngineError(
            f"the generator of {search.generator.model} returned {len(candidates)} candidates "
            f"where {request.n} were asked for"
        )
    search.progress.add(tokens=_num_tokens(candidates))
    return candidates


async def _score(search: Search, request: ScoreRequest) -> tuple[list[Candidate], int]:
    if not request.candidates:
        return [], 0
    scores = await search.scorer.score(request)
    if len(scores) != len(request.candidates):
        raise EngineError(
            f"the scorer returned {len(scores)} rewards for {len(request.candidates)} steps"
        )
    for score in scores:
        if not 0 <= score.reward <= 1:
            raise EngineError(f"the scorer returned a reward outside [0, 1]: {score.reward}")
    spent = sum(score.tokens for score in scores)
    search.progress.add(tokens=spent)
    rewarded = [
        replace(
            candidate,
            reward=score.reward,
            values=score.values,
            audit=score.audit,
            completions=score.completions,
        )
        for candidate, score in zip(request.candidates, scores, strict=True)
    ]
    return rewarded, spent


def _end_of_path(steps: tuple[Step, ...], settings: SearchSettings) -> FinishReason | None:
    if not steps:
        return None
    if is_final(steps[-1].candidate):
        return FinishReason.ANSWER
    if len(steps) >= settings.max_depth:
        return FinishReason.DEPTH
    if _num_tokens([step.candidate for step in steps]) >= settings.max_chain_tokens:
        return FinishReason.LENGTH
    return None


def _dead_end(candidates: Sequence[Candidate], steps: tuple[Step, ...]) -> FinishReason:
    """Why there is no plausible next step; a bare end-of-sequence ends what came before it."""
    if steps and any(c.stop_reason is StopReason.END and not c.text.strip() for c in candidates):
        return FinishReason.ANSWER
    if all(c.stop_reason is StopReason.LENGTH for c in candidates):
        return FinishReason.LENGTH
    return FinishReason.NO_CANDIDATE


def _end_of_sample(sample: Candidate) -> FinishReason:
    cut = sample.stop_reason is StopReason.LENGTH
    return FinishReason.LENGTH if cut else FinishReason.ANSWER


async def _graded(search: Search, path: _Path, name: str) -> Chain:
    chosen = [step.candidate for step in path.steps]
    grade = await _grade(search, path.finish_reason, "".join(c.text for c in chosen))
    search.progress.add(chains=1)
    return Chain(
        chain_id=f"{search.search_id}:{name}",
        stage=search.stage,
        branch=path.branch,
        model=search.generator.model,
        steps=path.steps,
        answer=grade.answer,
        verdict=grade.verdict,
        finish_reason=path.finish_reason,
        num_tokens=_num_tokens(chosen),
        seed=search.seed,
        parent_id=search.parent_id,
    )


async def _grade(search: Search, finish: FinishReason, text: str) -> Grade:
    """Only a chain that ended by itself is graded: a cut one states no final answer."""
    if finish is FinishReason.ANSWER:
        return await search.grader.grade(text, search.problem.answer)
    if finish is FinishReason.NO_CANDIDATE:
        return Grade(verdict=Verdict.NO_ANSWER, answer=None)
    return Grade(verdict=Verdict.TRUNCATED, answer=None)


def _num_tokens(candidates: Sequence[Candidate]) -> int:
    return sum(len(candidate.token_ids) for candidate in candidates)
