import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sphere_ray.config.method import MethodSettings, SearchSettings, StageSettings
from sphere_ray.errors import EngineError, RequestError
from sphere_ray.method.sphere import enter, sphere
from sphere_ray.records import CORRECTION_CHECK, Branch, Chain, Outcome, Rollout, StageName

from .fakes import PROBLEM, always, candidate, wander, world

GENERATION = StageName.SELF_GENERATION
CORRECTION = StageName.SELF_CORRECTION
DIVERSITY = StageName.DIVERSITY

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


async def stage_by_stage(problem, there, priority=0):
    rollout = Rollout(problem=problem)
    for stage in StageName:
        rollout = await enter(stage, rollout, there, priority)
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
    rollout = await sphere(PROBLEM, world(policy, small, settings=UNCHECKED))
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
    policy = corrects_to(ALL_RIGHT, after)
    rollout = await sphere(PROBLEM, world(policy, ALL_WRONG, settings=CHECKED))
    assert rollout.route == ("self_generation:both_right", entry, "diversity:pair")


async def test_the_checked_share_is_a_fixed_subset():
    half = MethodSettings(stages=StageSettings(correction_check_share=0.5))

    async def checked():
        problems = [_numbered(i) for i in range(200)]
        done = [await sphere(problem, world(ALL_RIGHT, settings=half)) for problem in problems]
        return [r.problem.problem_id for r in done if "correction_check:kept" in r.route]

    first = await checked()
    assert first == await checked()
    assert 60 < len(first) < 140


async def test_correction_shows_sol_max_but_scores_against_the_plain_question():
    there = world(ALL_WRONG)
    rollout = await sphere(PROBLEM, there)
    prompt = there.policy.requests[-1].messages[-1].content
    assert "sure #### 5" in prompt
    assert "hm #### 6" not in prompt
    assert {r.messages[-1].content for r in there.scorer.requests} == {PROBLEM.question}
    corrected = [c for c in rollout.chains if c.stage is StageName.SELF_CORRECTION]
    assert {c.parent_id for c in corrected} == {rollout.chains[0].chain_id}


async def test_an_empty_sol_max_gives_way_to_sol_min():
    rollout = await enter(GENERATION, Rollout(problem=PROBLEM), world(ALL_WRONG))
    best, worst = rollout.chains
    emptied = Chain(**{name: getattr(best, name) for name in Chain.__slots__} | {"steps": ()})
    rollout = Rollout(problem=PROBLEM, chains=(emptied, worst), route=rollout.route)
    there = world(ALL_WRONG)
    await enter(CORRECTION, rollout, there)
    assert worst.text in there.policy.requests[-1].messages[-1].content


async def test_the_small_model_searches_with_its_own_budget_and_temperature():
    stages = StageSettings(
        small_budget=3, small_temperature=1.3, correction_check_share=0, self_correction=False
    )
    chosen = MethodSettings(search=SearchSettings(num_candidates=4, top_up=False), stages=stages)
    there = world(ALL_RIGHT, ALL_WRONG, settings=chosen)
    rollout = await sphere(PROBLEM, there)
    assert {(r.n, r.temperature) for r in there.policy.requests} == {(4, 0.8)}
    assert {(r.n, r.temperature) for r in there.small.requests} == {(12, 1.3)}
    assert {c.model for c in rollout.chains if c.stage is StageName.DIVERSITY} == {"small"}


@pytest.mark.parametrize("policy", [ALL_WRONG, ALL_RIGHT])
async def test_switched_off_stages_change_nothing(policy):
    off = MethodSettings(stages=StageSettings(self_correction=False, diversity=False))
    there = world(policy, settings=off)
    generated = await enter(GENERATION, Rollout(problem=PROBLEM), there)
    for stage in (CORRECTION, DIVERSITY):
        assert await enter(stage, generated, there) is generated


async def test_a_failed_row_passes_every_stage_untouched():
    there = world(ALL_WRONG)
    for route in ((), ("self_generation:both_wrong",), ("self_generation:both_right",)):
        failed = Rollout(problem=PROBLEM, error="RequestError: refused", route=route)
        for stage in StageName:
            assert await enter(stage, failed, there) is failed
    assert there.policy.requests == []


async def test_a_problem_keeps_its_priority_in_every_stage():
    there = world(corrects_to(ALL_WRONG, ALL_RIGHT), ALL_WRONG)
    rollout = await sphere(PROBLEM, there, priority=5)
    stages = {StageName.SELF_GENERATION, StageName.SELF_CORRECTION, StageName.DIVERSITY}
    assert {chain.stage for chain in rollout.chains} == stages
    requests = [*there.policy.requests, *there.small.requests, *there.scorer.requests]
    assert {request.priority for request in requests} == {5}


@pytest.mark.parametrize(
    ("route", "outcome"),
    [
        ((), None),
        (("self_generation:both_wrong", "self_correction:pair"), Outcome.PAIR),
        (("self_generation:both_right", f"{CORRECTION_CHECK}:lost"), Outcome.BOTH_RIGHT),
    ],
)
def test_a_rollout_is_where_its_last_stage_left_it(route, outcome):
    assert Rollout(problem=PROBLEM, route=route).outcome is outcome


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
    there = world(lambda _: [candidate(text) for text in texts], settings=sampled)
    rollout = await sphere(PROBLEM, there)
    assert rollout.route == (route,)
    assert [chain.branch for chain in rollout.chains] == [Branch.SAMPLE] * 2
    assert there.scorer.requests == []


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
        return await sphere(_numbered(number), world(wander, settings=SMALL, order=shuffle))

    assert asyncio.run(one(None)) == asyncio.run(one(order))


@given(
    st.integers(0, 500),
    st.builds(StageSettings, self_correction=st.booleans(), diversity=st.booleans()),
    st.sampled_from(["pruned_steps", "sampled"]),
)
@settings(deadline=None)
def test_the_stages_one_after_another_are_the_whole_method(number, stages, strategy):
    search = SMALL.search.model_copy(update={"strategy": strategy})
    method = MethodSettings(search=search, stages=stages)
    whole = asyncio.run(sphere(_numbered(number), world(wander, settings=method)))
    apart = asyncio.run(stage_by_stage(_numbered(number), world(wander, settings=method)))
    assert apart == whole
    entered = {entry.partition(":")[0] for entry in whole.route} - {CORRECTION_CHECK}
    assert entered <= set(method.taken_stages)


def test_random_problems_go_through_every_stage():
    """Else the two properties around this would say little."""
    rollouts = [asyncio.run(sphere(_numbered(i), world(wander, settings=SMALL))) for i in range(99)]
    entered = {entry.partition(":")[0] for rollout in rollouts for entry in rollout.route}
    assert entered == {*StageName, CORRECTION_CHECK}


@given(st.integers(0, 200))
@settings(deadline=None)
def test_every_token_is_accounted_for_and_chain_ids_differ(number):
    there = world(wander, settings=SMALL)
    rollout = asyncio.run(sphere(_numbered(number), there))
    assert rollout.tokens == there.policy.decoded + there.small.decoded
    assert there.progress.counts == {"tokens": rollout.tokens, "chains": len(rollout.chains)}
    ids = [chain.chain_id for chain in rollout.chains]
    assert len(set(ids)) == len(ids)


async def test_another_iteration_is_another_search():
    first, second = [world(ALL_WRONG, iteration=i) for i in (0, 1)]
    one, two = await sphere(PROBLEM, first), await sphere(PROBLEM, second)
    assert first.policy.requests[0].seed != second.policy.requests[0].seed
    assert {c.chain_id for c in one.chains}.isdisjoint(c.chain_id for c in two.chains)


async def test_many_problems_run_at_once_without_deadlock():
    there = world(wander, settings=SMALL, order=3)
    problems = [_numbered(i) for i in range(50)]
    done = await asyncio.wait_for(asyncio.gather(*(sphere(p, there) for p in problems)), 20)
    assert [rollout.problem for rollout in done] == problems


@pytest.mark.parametrize("error", [EngineError("gone"), RequestError("refused")])
async def test_engine_errors_are_raised_not_recorded(error):
    def refuse(_):
        raise error

    with pytest.raises(type(error)):
        await sphere(PROBLEM, world(refuse))


async def test_a_share_of_the_wrong_problems_is_corrected_by_their_ids():
    def settings(share):
        return MethodSettings(stages=StageSettings(correction_share=share))

    async def corrected(share, **changes):
        found = set()
        for number in range(60):
            problem = replace(PROBLEM, problem_id=f"p{number}")
            rollout = await sphere(problem, world(ALL_WRONG, settings=settings(share), **changes))
            if any(entry.startswith(CORRECTION) for entry in rollout.route):
                found.add(number)
            else:
                assert rollout.route == ("self_generation:both_wrong",)
        return found

    some = await corrected(0.25)
    assert 5 < len(some) < 25
    assert some == await corrected(0.25, order=3)
    assert some < await corrected(0.5) < await corrected(1.0) == set(range(60))
    assert some != await corrected(0.25, iteration=1)


@pytest.mark.parametrize(
    ("tried", "repaired", "share"), [(0, 0, 0.25), (20, 1, 0.25), (20, 2, 1.0), (20, 20, 1.0)]
)
def test_the_next_iteration_corrects_all_if_enough_were_repaired(tried, repaired, share):
    stages = StageSettings(correction_share=0.25, min_repair_rate=0.1)
    assert stages.after(tried, repaired).correction_share == share


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": {"self_correction": False, "correction_share": 0.5}},
        {
            "stages": {"self_correction": False},
            "prompts": {"correction_examples": [{"question": "", "attempt": "", "response": ""}]},
        },
    ],
)
def test_settings_of_a_correction_that_never_runs_are_refused(changes):
    with pytest.raises(ValueError, match="has no effect without"):
        MethodSettings.model_validate(changes)
