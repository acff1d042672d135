import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sphere_ray.config.method import (
    MethodSettings,
    PairSettings,
    PromptSettings,
    SearchSettings,
    StageSettings,
)
from sphere_ray.method.pairs import OFF_POLICY, build_pairs
from sphere_ray.method.sphere import sphere
from sphere_ray.records import (
    Branch,
    Chain,
    Dropped,
    FinishReason,
    Message,
    Rollout,
    StageName,
    Step,
    StopReason,
    Verdict,
)

from .fakes import PROBLEM, candidate, scored, wander, world

GENERATION = StageName.SELF_GENERATION
CORRECTION = StageName.SELF_CORRECTION
DIVERSITY = StageName.DIVERSITY


def chain(stage, branch, text, verdict=Verdict.WRONG, **changes):
    """A chain of one step; `verdict` and the rest can be set freely."""
    made = changes.pop("steps", (Step(candidates=(scored(text, 0.5),), chosen=0),))
    known = Chain(
        chain_id=f"{stage}:{branch}:{text}",
        stage=stage,
        branch=branch,
        model="policy",
        steps=made,
        answer=None,
        verdict=verdict,
        finish_reason=FinishReason.ANSWER,
        num_tokens=len(text) + 1,
        seed=0,
    )
    return replace(known, **changes)


def right(text="Two and two make four. #### 4", stage=GENERATION, branch=Branch.MAX, **changes):
    return chain(stage, branch, text, Verdict.CORRECT, **changes)


def wrong(text="It is certainly five then #### 5", stage=GENERATION, branch=Branch.MIN, **changes):
    return chain(stage, branch, text, **changes)


def rules(**changes):
    return MethodSettings(pairs=PairSettings(**changes))


def built(*chains, method=None):
    return build_pairs(Rollout(problem=PROBLEM, chains=chains), method or MethodSettings())


def reasons(made):
    return [dropped.reason for dropped in made.dropped]


# Which chains make a pair


def test_sol_max_right_and_sol_min_wrong_make_a_pair():
    best, worst = right(), wrong()
    rollout = built(best, worst)
    (pair,) = rollout.pairs
    assert (pair.chosen, pair.rejected) == (best.text, worst.text)
    assert (pair.chosen_ids, pair.rejected_ids) == (best.token_ids, worst.token_ids)
    assert (pair.chosen_chain, pair.rejected_chain) == (best.chain_id, worst.chain_id)
    assert (pair.problem_id, pair.stage, pair.prefix) == ("p1", GENERATION, "")
    assert pair.prompt == (Message(role="user", content=PROBLEM.question),)
    assert rollout.dropped == ()


@pytest.mark.parametrize(
    ("best", "worst"),
    [
        (right(), right("Count: 1, 2, 3, 4. #### 4", branch=Branch.MIN)),
        (wrong("Three and three #### 6", branch=Branch.MAX), wrong()),
    ],
)
def test_all_right_and_all_wrong_make_none(best, worst):
    rollout = built(best, worst)
    assert rollout.pairs == rollout.dropped == ()


def test_corrected_chains_are_trained_on_the_plain_question():
    first, second = wrong("Guess #### 9", branch=Branch.MAX), wrong()
    fixed = right(stage=CORRECTION, parent_id=first.chain_id)
    still = wrong("Five it must be, surely #### 5", stage=CORRECTION, parent_id=first.chain_id)
    (pair,) = built(first, second, fixed, still).pairs
    assert pair.stage is CORRECTION
    assert pair.prompt == (Message(role="user", content=PROBLEM.question),)


def test_the_correction_check_never_teaches():
    best, worst = right(), right("Count: 1, 2, 3, 4. #### 4", branch=Branch.MIN)
    kept = right("Still four, I say. #### 4", stage=CORRECTION, parent_id=best.chain_id)
    lost = wrong(stage=CORRECTION, parent_id=best.chain_id)
    assert built(best, worst, kept, lost, method=rules(level="both")).pairs == ()


def test_the_small_models_mistake_is_rejected_for_the_policys_right_chain():
    best = right()
    small = wrong("Small model says three #### 3", stage=DIVERSITY, model="small")
    (pair,) = built(best, small).pairs
    assert (pair.stage, pair.chosen, pair.rejected) == (DIVERSITY, best.text, small.text)


def test_the_small_models_sol_max_serves_where_its_sol_min_does_not():
    best = right()
    cut = wrong("and so on", stage=DIVERSITY, finish_reason=FinishReason.LENGTH)
    cut = replace(cut, verdict=Verdict.TRUNCATED)
    usable = wrong("Small model says three #### 3", stage=DIVERSITY, branch=Branch.MAX)
    rollout = built(best, cut, usable)
    assert [pair.rejected for pair in rollout.pairs] == [usable.text]
    assert reasons(built(best, cut)) == ["not_terminated"]


def test_the_small_models_sol_min_comes_first():
    small = [
        wrong(text, stage=DIVERSITY, branch=branch)
        for branch, text in (
            (Branch.MAX, "Nearly right, I would say #### 3"),
            (Branch.MIN, "Small model says nothing much #### 9"),
        )
    ]
    rollout = built(right(), *small)
    assert [pair.rejected for pair in rollout.pairs] == [small[1].text]


def test_after_a_correction_the_corrected_chain_is_chosen():
    first = wrong("Guess #### 9", branch=Branch.MAX)
    fixed = right(stage=CORRECTION, parent_id=first.chain_id)
    small = wrong("Small model says three #### 3", stage=DIVERSITY)
    (pair,) = built(first, wrong(), fixed, small).pairs
    assert pair.chosen_chain == fixed.chain_id


def test_samples_pair_likeliest_right_with_likeliest_wrong_each_once():
    def sample(text, verdict, logprob):
        step = Step(candidates=(candidate(text, logprob=logprob),), chosen=0)
        return chain(GENERATION, Branch.SAMPLE, text, verdict, steps=(step,))

    cut = replace(
        sample("cut in the middle of", Verdict.TRUNCATED, 0.0), finish_reason=FinishReason.LENGTH
    )
    samples = (
        cut,
        sample("unlikely but right #### 4", Verdict.CORRECT, -2.0),
        sample("likely and right #### 4", Verdict.CORRECT, -0.1),
        sample("an unlikely mistake, this one #### 5", Verdict.WRONG, -3.0),
        sample("a likely mistake, and that #### 6", Verdict.WRONG, -0.2),
        sample("the likeliest of mistakes, oh #### 7", Verdict.WRONG, -0.1),
    )
    expected = [(samples[2].text, samples[5].text), (samples[1].text, samples[4].text)]
    pairs = built(*samples, method=rules(max_per_problem=5)).pairs
    assert [(p.chosen, p.rejected) for p in pairs] == expected
    assert built(*samples).pairs == pairs[:1]
    assert reasons(built(*samples)) == ["per_problem_cap"]


# Token ids


@pytest.mark.parametrize(
    "rejected",
    [
        wrong("It is certainly five then #### 5\n\n"),
        wrong(model="another"),
    ],
)
def test_ids_are_kept_only_if_both_end_in_end_of_sequence_of_one_tokenizer(rejected):
    (pair,) = built(right(), rejected).pairs
    assert pair.chosen_ids == pair.rejected_ids == ()
    assert pair.rejected == "It is certainly five then #### 5"


# Gates


@pytest.mark.parametrize(
    ("reason", "best", "worst", "method"),
    [
        ("outcome", right(), wrong(verdict=Verdict.UNGRADABLE), {}),
        ("outcome", right(), wrong(verdict=Verdict.TIMEOUT), {}),
        (
            "not_terminated",
            right(),
            wrong(verdict=Verdict.TRUNCATED, finish_reason=FinishReason.DEPTH),
            {},
        ),
        (
            "not_terminated",
            right(),
            wrong(verdict=Verdict.NO_ANSWER, finish_reason=FinishReason.NO_CANDIDATE, steps=()),
            {},
        ),
        ("too_long", right(), wrong("five " * 20), {"max_tokens": 100}),
        ("length_ratio", right(), wrong("five " * 20), {"max_length_ratio": 2.0}),
        ("too_similar", right(), wrong("Two and two make five. #### 5"), {}),
    ],
)
def test_each_gate_drops_by_name(reason, best, worst, method):
    rollout = built(best, worst, method=rules(**method))
    assert rollout.pairs == ()
    assert reasons(rollout) == [reason]


@pytest.mark.parametrize(
    "text",
    [
        "The earlier attempt added twice. 2 + 2 = 4 #### 4",
        "I made a mistake: it is 4 #### 4",
        "The previous solution was incorrect. #### 4",
        "Apologies! #### 4",
        "Let me try again. #### 4",
        "Here is the corrected sum #### 4",
        "Let's re-examine the sum #### 4",
    ],
)
def test_a_correction_that_mentions_the_attempt_is_dropped(text):
    parent = wrong("Guess #### 9", branch=Branch.MAX)
    fixed = right(text, stage=CORRECTION, parent_id=parent.chain_id)
    still = wrong(stage=CORRECTION, parent_id=parent.chain_id)
    assert reasons(built(parent, wrong(), fixed, still)) == ["refers_to_attempt"]
    assert built(right(text), wrong()).dropped == ()


def test_equal_step_pairs_are_duplicates():
    one = two_steps(Branch.MAX, taken=0)
    (first, second) = one.steps
    spelt = replace(first.candidates[0], token_ids=(7, 8))  # the same text in other tokens
    other = replace(one, steps=(replace(first, candidates=(spelt, first.candidates[1])), second))
    rollout = built(one, other, method=rules(level="step", step_margin=0.25, max_per_problem=9))
    assert reasons(rollout) == ["duplicate"]


def test_a_failed_rollout_keeps_no_pairs():
    rollout = Rollout(problem=PROBLEM, chains=(right(), wrong()), error="RequestError: refused")
    assert build_pairs(rollout, MethodSettings()).pairs == ()


# Steps


def two_steps(branch, *, taken):
    first = (scored("We add both numbers\n\n", 0.9), scored("Multiply them all up\n\n", 0.2))
    second = (scored("Sum them up: #### 4", 1.0), scored("Take them away! #### 0", 0.75))
    steps = (Step(candidates=first, chosen=taken), Step(candidates=second, chosen=0))
    return chain(GENERATION, branch, f"{taken}", Verdict.CORRECT, steps=steps)


def test_step_pairs_come_from_siblings_with_a_margin_and_share_a_prefix():
    method = rules(level="step", step_margin=0.25, max_per_problem=9)
    best = two_steps(Branch.MAX, taken=0)
    wide, narrow = built(best, method=method).pairs
    assert (wide.chosen, wide.rejected) == ("We add both numbers\n\n", "Multiply them all up\n\n")
    assert (wide.prefix, wide.prefix_ids) == ("", ())
    assert (wide.chosen_reward, wide.rejected_reward) == (0.9, 0.2)
    assert narrow.prefix == "We add both numbers\n\n"
    assert narrow.prefix_ids == best.steps[0].candidate.token_ids
    assert narrow.chosen_ids == best.steps[1].candidates[0].token_ids
    assert len(built(best, method=rules(level="step", step_margin=0.3)).pairs) == 1


def test_positions_that_both_chains_share_count_once():
    method = rules(level="step", step_margin=0.5, max_per_problem=9)
    both = two_steps(Branch.MAX, taken=0), two_steps(Branch.MIN, taken=1)
    rollout = built(*both, method=method)
    assert len(rollout.pairs) == 1
    assert rollout.dropped == ()


def test_whole_chains_come_before_steps():
    best = two_steps(Branch.MAX, taken=0)
    pairs = built(best, wrong(), method=rules(level="both", max_per_problem=2)).pairs
    assert [pair.chosen for pair in pairs] == [best.text, "We add both numbers\n\n"]


def test_the_small_models_steps_are_not_used():
    small = replace(two_steps(Branch.MAX, taken=0), stage=DIVERSITY)
    assert built(small, method=rules(level="step")).pairs == ()


# Properties of real rollouts


def rolled(seed, method):
    problem = replace(PROBLEM, problem_id=f"p{seed}")
    return asyncio.run(sphere(problem, world(wander, settings=method)))


@given(
    st.integers(0, 2000),
    st.sampled_from(["chain", "step", "both"]),
    st.sampled_from(["pruned_steps", "sampled"]),
    st.integers(1, 3),
)
@settings(deadline=None)
def test_chosen_beats_rejected_and_pairs_are_capped(seed, level, strategy, cap):
    method = MethodSettings(
        search=SearchSettings(strategy=strategy, num_candidates=3, num_samples=4, max_depth=3),
        stages=StageSettings(correction_check_share=0.5),
        pairs=PairSettings(level=level, max_per_problem=cap, min_edit_distance=1),
    )
    rollout = rolled(seed, method)
    made = build_pairs(rollout, method)
    chains = {c.chain_id: c for c in rollout.chains}
    assert len(made.pairs) <= cap
    assert build_pairs(rollout, method) == made
    for pair in made.pairs:
        assert pair.chosen != pair.rejected
        if pair.chosen_chain == pair.rejected_chain:
            assert pair.chosen_reward - pair.rejected_reward >= method.pairs.step_margin
            continue
        chosen, rejected = chains[pair.chosen_chain], chains[pair.rejected_chain]
        assert chosen.correct
        assert not rejected.correct
        assert {chosen.finish_reason, rejected.finish_reason} == {FinishReason.ANSWER}


def test_the_random_world_pairs_in_every_stage():
    """Else the property above would be vacuous."""
    method = MethodSettings(pairs=PairSettings(min_edit_distance=1))
    pairs = [p for seed in range(150) for p in build_pairs(rolled(seed, method), method).pairs]
    assert {pair.stage for pair in pairs} == set(StageName)


def test_other_prompts_and_rules_apply_to_old_rollouts():
    old = Rollout(problem=PROBLEM, chains=(right(), wrong()))
    (first,) = build_pairs(old, MethodSettings()).pairs
    prompts = PromptSettings(system="Be exact.")
    new = build_pairs(old, MethodSettings(prompts=prompts, pairs=PairSettings(max_tokens=3)))
    assert (new.pairs, reasons(new)) == ((), ["too_long"])
    (pair,) = build_pairs(old, MethodSettings(prompts=prompts)).pairs
    assert pair.prompt[0].role == "system"
    assert pair.pair_id != first.pair_id


@given(st.text(max_size=6), st.text(max_size=6), st.text(max_size=4), st.text(max_size=4))
def test_equal_ids_mean_equal_questions(one, other, before, after):
    """So no pair stands in two problems: ingest leaves no two problems with one question."""

    def pair_id(question):
        prompts = PromptSettings(question=f"{before}{{question}}{after}{{question}}")
        problem = replace(PROBLEM, question=question)
        rollout = Rollout(problem=problem, chains=(right(), wrong()))
        return build_pairs(rollout, MethodSettings(prompts=prompts)).pairs[0].pair_id

    assert (pair_id(one) == pair_id(other)) == (one == other)


def test_off_policy_pairs_are_those_whose_rejected_side_the_small_model_wrote():
    pairs = built(right(), wrong("Small model says three #### 3", stage=OFF_POLICY)).pairs
    assert [pair.stage for pair in pairs] == [OFF_POLICY]


# Edit distance


@pytest.mark.parametrize(("least", "dropped"), [(0, []), (3, []), (4, ["too_similar"])])
def test_sides_are_too_similar_below_the_distance_only(least, dropped):
    sides = right("Count on. #### 4"), wrong("Count off #### 5")  # three letters apart
    assert reasons(built(*sides, method=rules(min_edit_distance=least))) == dropped


def test_what_a_gate_refused_says_which_chains_and_why():
    best, worst = right(), wrong(stage=OFF_POLICY)
    (dropped,) = built(best, worst, method=rules(max_tokens=3)).dropped
    kept = built(best, worst).pairs[0]
    assert dropped == Dropped(
        pair_id=kept.pair_id,
        problem_id="p1",
        stage=OFF_POLICY,
        chosen_chain=best.chain_id,
        rejected_chain=worst.chain_id,
        reason="too_long",
    )


def test_a_boundary_stop_is_not_an_end_of_sequence():
    assert wrong("x\n\n").steps[0].candidate.stop_reason is StopReason.BOUNDARY
