import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sphere_ray.config.method import MethodSettings, SearchSettings, StageSettings
from sphere_ray.errors import EngineError, RequestError
from sphere_ray.method.stages import diversify, self_correct, self_generate
from sphere_ray.records import Branch, Chain, Rollout, StageName

from .fakes import PROBLEM, always, candidate, context, wander

ROLLOUT = Rollout(problem=PROBLEM)

RIGHT_OVER_WRONG = always("[0.9] #### 4", "[0.1] #### 5")
WRONG_OVER_RIGHT = always("[0.1] #### 4", "[0.9] #### 5")
ALL_RIGHT = always("[0.9] sure #### 4", "[0.1] hm #### 4")
ALL_WRONG = always("[0.9] sure #### 5", "[0.1] hm #### 6")
UNREADABLE = always("[0.9] sure #### ?", "[0.1] hm #### ?")
RIGHT_OVER_UNREADABLE = always("[0.9] sure #### 4", "[0.1] hm #### ?")
CHECKED = MethodSettings(stages=StageSettings(correction_check_share=1.0))
UNCHECKED = MethodSettings(stages=StageSettings(correction_check_share=0.0))


def corrects_to(first, second):
    """Proposes `first` for the plain question and `second` once shown an attempt."""
    return lambda request: (second if "attempt" in request.messages[-1].content else first)(request)


async def through(ctx, rollout=ROLLOUT):
    for stage in (self_generate, self_correct, diversify):
        rollout = await stage(rollout, ctx)
    return rollout


@pytest.mark.parametrize(
    ("policy", "small", "route"),
    [
        (RIGHT_OVER_WRONG, ALL_WRONG, ("self_generation:pair",)),
        (WRONG_OVER_RIGHT, ALL_WRONG, ("self_generation:inversion",)),
        (ALL_RIGHT, ALL_WRONG, ("self_generation:both_right", "diversity:pair")),
        (ALL_RIGHT, WRONG_OVER_RIGHT, ("self_generation:both_right", "diversity:pair")),
        (ALL_RIGHT, ALL_RIGHT, ("self_generation:both_right", "diversity:both_right")),
        (ALL_RIGHT, UNREADABLE, ("self_generation:both_right", "diversity:both_right")),
        (RIGHT_OVER_UNREADABLE, ALL_WRONG, ("self_generation:undecided",)),
        (UNREADABLE, ALL_WRONG, ("self_generation:undecided",)),
        (
            corrects_to(ALL_WRONG, RIGHT_OVER_WRONG),
            ALL_WRONG,
            ("self_generation:both_wrong", "self_correction:pair"),
        ),
        (ALL_WRONG, ALL_WRONG, ("self_generation:both_wrong", "self_correction:both_wrong")),
        (
            corrects_to(ALL_WRONG, WRONG_OVER_RIGHT),
            ALL_WRONG,
            ("self_generation:both_wrong", "self_correction:inversion"),
        ),
        (
            corrects_to(ALL_WRONG, ALL_RIGHT),
            ALL_WRONG,
            ("self_generation:both_wrong", "self_correction:both_right", "diversity:pair"),
        ),
        (always("\n\n"), ALL_WRONG, ("self_generation:both_wrong", "self_correction:no_attempt")),
    ],
)
async def test_routes(policy, small, route):
    rollout = await through(context(policy, small, settings=UNCHECKED))
    assert rollout.route == route


@pytest.mark.parametrize(
    ("after", "entry"),
    [
        (ALL_RIGHT, "correction_check:kept"),
        (ALL_WRONG, "correction_check:lost"),
        (UNREADABLE, "correction_check:undecided"),
    ],
)
async def test_right_solutions_called_wrong_are_a_measurement(after, entry):
    rollout = await through(context(corrects_to(ALL_RIGHT, after), ALL_WRONG, settings=CHECKED))
    assert rollout.route == ("self_generation:both_right", entry, "diversity:pair")


async def test_the_checked_share_is_a_fixed_subset():
    half = MethodSettings(stages=StageSettings(correction_check_share=0.5))

    async def checked():
        problems = [Rollout(problem=_numbered(i)) for i in range(200)]
        done = [await through(context(ALL_RIGHT, settings=half), r) for r in problems]
        return [r.problem.problem_id for r in done if "correction_check:kept" in r.route]

    first = await checked()
    assert first == await checked()
    assert 60 < len(first) < 140


async def test_correction_shows_sol_max_but_scores_against_the_plain_question():
    ctx = context(ALL_WRONG)
    rollout = await self_correct(await self_generate(ROLLOUT, ctx), ctx)
    prompt = ctx.policy.requests[-1].messages[-1].content
    assert "sure #### 5" in prompt
    assert "hm #### 6" not in prompt
    assert {r.messages[-1].content for r in ctx.scorer.requests} == {PROBLEM.question}
    corrected = [c for c in rollout.chains if c.stage is StageName.SELF_CORRECTION]
    assert {c.parent_id for c in corrected} == {rollout.chains[0].chain_id}


async def test_an_empty_sol_max_gives_way_to_sol_min():
    rollout = await self_generate(ROLLOUT, context(ALL_WRONG))
    best, worst = rollout.chains
    emptied = Chain(**{name: getattr(best, name) for name in Chain.__slots__} | {"steps": ()})
    rollout = Rollout(problem=PROBLEM, chains=(emptied, worst), route=rollout.route)
    ctx = context(ALL_WRONG)
    await self_correct(rollout, ctx)
    assert worst.text in ctx.policy.requests[-1].messages[-1].content


async def test_the_small_model_searches_with_its_own_budget_and_temperature():
    stages = StageSettings(
        small_budget=3, small_temperature=1.3, correction_check_share=0, self_correction=False
    )
    chosen = MethodSettings(search=SearchSettings(num_candidates=4), stages=stages)
    ctx = context(ALL_RIGHT, ALL_WRONG, settings=chosen)
    rollout = await through(ctx)
    assert {(r.n, r.temperature) for r in ctx.policy.requests} == {(4, 0.8)}
    assert {(r.n, r.temperature) for r in ctx.small.requests} == {(12, 1.3)}
    assert {c.model for c in rollout.chains if c.stage is StageName.DIVERSITY} == {"small"}


@pytest.mark.parametrize("policy", [ALL_WRONG, ALL_RIGHT])
async def test_switched_off_stages_change_nothing(policy):
    off = MethodSettings(stages=StageSettings(self_correction=False, diversity=False))
    ctx = context(policy, settings=off)
    generated = await self_generate(ROLLOUT, ctx)
    assert await diversify(await self_correct(generated, ctx), ctx) is generated


async def test_a_failed_row_passes_every_stage_untouched():
    failed = Rollout(problem=PROBLEM, error="RequestError: refused", route=("x:both_wrong",))
    ctx = context(ALL_WRONG)
    assert await through(ctx, failed) is failed
    assert ctx.policy.requests == []


async def test_priority_reaches_the_engines():
    ctx = context(ALL_WRONG)
    await self_correct(await self_generate(ROLLOUT, ctx, priority=5), ctx, priority=3)
    assert {r.priority for r in ctx.policy.requests} == {5, 3}
    assert {r.priority for r in ctx.scorer.requests} == {5, 3}


@pytest.mark.parametrize(
    ("texts", "route"),
    [
        (["a #### 4", "b #### 5"], "self_generation:pair"),
        (["a #### 4", "b #### 4"], "self_generation:all_right"),
        (["a #### 6", "b #### 5"], "self_generation:all_wrong"),
    ],
)
async def test_sampled_problems_end_after_self_generation(texts, route):
    sampled = MethodSettings(search=SearchSettings(strategy="sampled", num_samples=2))
    ctx = context(lambda _: [candidate(text) for text in texts], settings=sampled)
    rollout = await through(ctx)
    assert rollout.route == (route,)
    assert [chain.branch for chain in rollout.chains] == [Branch.SAMPLE] * 2
    assert ctx.scorer.requests == []


def _numbered(number):
    return type(PROBLEM)(
        problem_id=f"p{number}", question=f"{number}: 2 + 2?", answer="4", source="test"
    )


SMALL = MethodSettings(
    search=SearchSettings(num_candidates=2, max_depth=3),
    stages=StageSettings(correction_check_share=0.5),
)


@given(st.integers(0, 200), st.integers(0, 2**32))
@settings(deadline=None)
def test_the_same_identity_gives_the_same_rollout_in_any_order(number, order):
    async def one(shuffle):
        ctx = context(wander, settings=SMALL, order=shuffle)
        return await through(ctx, Rollout(problem=_numbered(number)))

    assert asyncio.run(one(None)) == asyncio.run(one(order))


@given(st.integers(0, 200))
@settings(deadline=None)
def test_every_token_is_accounted_for_and_chain_ids_differ(number):
    ctx = context(wander, settings=SMALL)
    rollout = asyncio.run(through(ctx, Rollout(problem=_numbered(number))))
    assert rollout.tokens == ctx.policy.decoded + ctx.small.decoded
    assert ctx.progress.counts == {"tokens": rollout.tokens, "chains": len(rollout.chains)}
    ids = [chain.chain_id for chain in rollout.chains]
    assert len(set(ids)) == len(ids)


async def test_another_iteration_is_another_search():
    first, second = [context(ALL_WRONG, iteration=i) for i in (0, 1)]
    one, two = await self_generate(ROLLOUT, first), await self_generate(ROLLOUT, second)
    assert first.policy.requests[0].seed != second.policy.requests[0].seed
    assert {c.chain_id for c in one.chains}.isdisjoint(c.chain_id for c in two.chains)


async def test_many_problems_run_at_once_without_deadlock():
    ctx = context(wander, settings=SMALL, order=3)
    rollouts = [Rollout(problem=_numbered(i)) for i in range(50)]
    done = await asyncio.wait_for(asyncio.gather(*(through(ctx, r) for r in rollouts)), 20)
    assert [r.problem for r in done] == [r.problem for r in rollouts]


@pytest.mark.parametrize("error", [EngineError("gone"), RequestError("refused")])
async def test_engine_errors_are_raised_not_recorded(error):
    def refuse(_):
        raise error

    with pytest.raises(type(error)):
        await self_generate(ROLLOUT, context(refuse))
