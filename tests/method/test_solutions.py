"""Pairs from the completions behind rollout values, and which wrong solution is rejected."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.method import MethodSettings, PairSettings
from sphere_ray.method.pairs import build_pairs
from sphere_ray.method.solutions import is_settled
from sphere_ray.records import (
    Branch,
    Completion,
    FinishReason,
    Rollout,
    StageName,
    Step,
    StopReason,
    Verdict,
)

from .fakes import PROBLEM, candidate
from .test_pairs import chain, reasons, right, wrong

CORRECTION = StageName.SELF_CORRECTION
LOOSE = {"min_edit_distance": 1, "max_per_problem": 9}


def completion(text, verdict=None, logprob=-0.3):
    made = candidate(text, logprob=logprob)
    verdict = verdict or (Verdict.CORRECT if text.endswith("4") else Verdict.WRONG)
    return Completion(
        text=text,
        token_ids=made.token_ids,
        logprob=logprob,
        stop_reason=StopReason.END,
        verdict=verdict,
    )


def sibling(text, *completions, logprob=-0.5):
    values = tuple(float(each.verdict is Verdict.CORRECT) for each in completions)
    return replace(
        candidate(text, logprob=logprob),
        reward=sum(values) / len(values),
        values=values,
        completions=completions,
    )


def final(text):
    own = replace(completion(text), text="", token_ids=(), logprob=0.0)
    return sibling(text, own)


def searched(*steps, branch=Branch.MAX, **changes):
    made = tuple(Step(candidates=tuple(c), chosen=0) for c in steps)
    text = "".join(step.candidate.text for step in made)
    correct = text.endswith("4")
    verdict = Verdict.CORRECT if correct else Verdict.WRONG
    known = {"chain_id": f"c-{branch}", "steps": made, "num_tokens": len(text) + 1, **changes}
    return chain(known.pop("stage", StageName.SELF_GENERATION), branch, text, verdict, **known)


def built(*chains, **changes):
    method = MethodSettings(pairs=PairSettings(**{**LOOSE, **changes}))
    return build_pairs(Rollout(problem=PROBLEM, chains=chains), method)


ADD = sibling("Add them.\n\n", completion("Sum #### 4"), completion("Total #### 5"))
TIMES = sibling("Multiply.\n\n", completion("Two by three #### 6"), completion("It is #### 4"))
BEST = searched((ADD, TIMES), (final("2 + 2 = 4 #### 4"),))
ALSO = searched((ADD, TIMES), (final("Both make #### 4"),), branch=Branch.MIN)


def sides(rollout):
    return {(pair.chosen, pair.rejected) for pair in rollout.pairs}


def test_completions_of_siblings_make_pairs_where_both_chains_are_right():
    made = built(BEST, ALSO)
    # Of the four right solutions, two find a wrong one; a sibling's mistake is preferred.
    assert sides(made) == {
        ("Add them.\n\n2 + 2 = 4 #### 4", "Multiply.\n\nTwo by three #### 6"),
        ("Add them.\n\nBoth make #### 4", "Add them.\n\nTotal #### 5"),
    }
    assert {pair.stage for pair in made.pairs} == {StageName.SELF_GENERATION}


def test_a_completion_names_its_place_and_keeps_the_engines_tokens():
    (pair,) = built(BEST, ALSO, max_per_problem=1).pairs
    assert (pair.chosen_chain, pair.rejected_chain) == ("c-max", "c-max/0.1.0")
    assert pair.chosen_ids == BEST.token_ids
    assert pair.rejected_ids == TIMES.token_ids + TIMES.completions[0].token_ids
    assert (pair.chosen_reward, pair.rejected_reward) == (0.5, 0.5)


def test_completions_are_left_alone_if_the_rules_say_so():
    assert built(BEST, ALSO, from_completions=False).pairs == ()


def test_only_right_and_wrong_completions_are_solutions():
    others = [v for v in Verdict if v not in (Verdict.CORRECT, Verdict.WRONG)]
    odd = sibling("Odd.\n\n", *(completion(f"ends {v}", v) for v in others))
    own = replace(ADD, completions=ADD.completions[:1])
    assert built(searched((own, odd), (final("2 + 2 = 4 #### 4"),))).pairs == ()


def test_completions_of_corrections_and_of_the_small_model_are_not_used():
    """Their prefixes were written under another prompt, or by another model."""
    for stage in (CORRECTION, StageName.DIVERSITY):
        assert built(replace(BEST, stage=stage), replace(ALSO, stage=stage)).pairs == ()


GOOD = sibling("Good.\n\n", *(completion(f"z{i} #### 4") for i in range(31)))
MIDDLE = sibling("Mid.\n\n", completion("um #### 5"), *([completion("y #### 4")] * 9))
HALF = sibling("Half.\n\n", completion("maybe #### 9"), completion("well #### 4"))
MOST = sibling(
    "Most.\n\n", *([completion("hm #### 7", logprob=-0.1)]), *[completion("#### 4")] * 19
)


@pytest.mark.parametrize(
    ("rule", "start"), [("likeliest", "Most."), ("worst", "Half."), ("two_deviations", "Mid.")]
)
def test_the_rule_chooses_the_rejected_side(rule, start):
    """The pool: 32 solutions worth 1, two worth 0.95, 0.9 and 0.5: mean - 2 sd is 0.74."""
    best = searched((GOOD, HALF, MIDDLE, MOST), (final("done #### 4"),))
    (pair,) = built(best, rejected=rule, max_per_problem=1).pairs
    assert pair.rejected.startswith(start)


def test_the_same_completions_differ_in_step_before_they_differ_in_ending():
    """A mistake from another sibling is preferred to one from the chosen's own first step."""
    own = sibling("Add them.\n\n", completion("Total #### 5", logprob=-0.1), completion("a #### 4"))
    other = sibling("Multiply.\n\n", completion("Six #### 6", logprob=-0.9))
    best = searched((own, other), (final("2 + 2 = 4 #### 4"),))
    (pair,) = built(best, max_per_problem=1).pairs
    assert pair.rejected.startswith("Multiply.")


def test_equal_chains_are_paired_once():
    """A search whose best and worst step never differ makes two equal chains."""
    rights = [right(branch=branch, chain_id=branch) for branch in (Branch.MAX, Branch.MIN)]
    small = [
        wrong(
            "Small model says three #### 3",
            stage=StageName.DIVERSITY,
            branch=branch,
            chain_id=branch,
        )
        for branch in (Branch.MAX, Branch.MIN)
    ]
    rollout = built(*rights, *small)
    assert len(rollout.pairs) == 1
    assert reasons(rollout) == []


# Corrections and inversions


def test_the_corrected_chain_is_preferred_to_the_attempt_it_corrects():
    attempt = wrong("Guess #### 9", branch=Branch.MAX)
    fixed = right(stage=CORRECTION, parent_id=attempt.chain_id)
    still = wrong("Still five, you see #### 5", stage=CORRECTION, parent_id=attempt.chain_id)
    likelier = wrong("Two and two is five #### 5")
    (pair,) = built(attempt, likelier, fixed, still).pairs
    assert (pair.chosen, pair.rejected) == (fixed.text, attempt.text)
    assert pair.stage is CORRECTION


def test_two_corrected_chains_correct_both_wrong_ones():
    attempts = [wrong("Guess #### 9", branch=Branch.MAX), wrong("It is certainly five #### 5")]
    fixed = [
        right(text, stage=CORRECTION, branch=branch, parent_id=attempts[0].chain_id)
        for text, branch in (("Count up. #### 4", Branch.MAX), ("Add: 2 + 2 #### 4", Branch.MIN))
    ]
    pairs = built(*attempts, *fixed).pairs
    assert [pair.rejected for pair in pairs] == [attempt.text for attempt in attempts]


def test_a_verified_inversion_is_swapped_or_dropped():
    best, worst = wrong(branch=Branch.MAX), right(branch=Branch.MIN)
    (pair,) = built(best, worst, inversions="swap").pairs
    assert (pair.chosen_chain, pair.rejected_chain) == (worst.chain_id, best.chain_id)
    assert built(best, worst, inversions="drop").pairs == ()


# Gates


def test_a_rejected_side_that_the_model_would_not_write_is_dropped():
    def said(text, verdict, logprob, **changes):
        step = Step(candidates=(candidate(text, logprob=logprob),), chosen=0)
        return chain(
            changes.pop("stage", StageName.SELF_GENERATION),
            changes.pop("branch", Branch.MIN),
            text,
            verdict,
            steps=(step,),
            **changes,
        )

    best = said("Two and two make four. #### 4", Verdict.CORRECT, -0.2, branch=Branch.MAX)
    odd = said("Weights: 5000 Floors: 50 #### 1311", Verdict.WRONG, -1.0)
    assert reasons(built(best, odd, max_logprob_gap=0.75)) == ["implausible"]
    for gap in (0.85, None):
        assert len(built(best, odd, max_logprob_gap=gap).pairs) == 1
    # Where the prompts or the models differ, the recorded log-probs say nothing about each other.
    small = replace(odd, stage=StageName.DIVERSITY, model="small")
    assert len(built(best, small, max_logprob_gap=0.75).pairs) == 1
    assert reasons(built(best, replace(small, model="policy"))) == ["implausible"]


def test_a_chosen_side_with_a_false_equation_is_refused():
    lucky = right("Maria has 2 - 8 = 4 beads. #### 4")
    assert reasons(built(lucky, wrong())) == ["false_equation"]
    assert len(built(lucky, wrong(), sound_chosen=False).pairs) == 1
    false = wrong("Maria has 2 + 2 = 5 beads. #### 5")
    assert len(built(right(), false).pairs) == 1


def test_a_chosen_side_with_a_step_from_which_nothing_reached_the_gold_is_refused():
    hopeless = replace(ADD, completions=None, values=(0.0, 0.0), reward=0.0)
    lucky = searched((hopeless,), (final("Anyway it is #### 4"),))
    assert reasons(built(lucky, wrong())) == ["zero_value"]
    assert len(built(lucky, wrong(), sound_chosen=False).pairs) == 1
    # The other right solutions go on without it.
    made = built(lucky, replace(right(), branch=Branch.MIN), wrong(branch=Branch.SAMPLE))
    assert [pair.chosen for pair in made.pairs] == [right().text]


# Step margins


def outcomes(text, *values):
    return replace(candidate(text), reward=sum(values) / len(values), values=values)


@pytest.mark.parametrize(
    ("best", "worst", "errors"),
    [  # (p - q) / sqrt(p (1 - p) / n + q (1 - q) / n), one success and one failure added: by hand
        ((1.0,) * 2, (0.0,) * 2, 0.5 / (2 * 0.75 * 0.25 / 4) ** 0.5),
        ((1.0,) * 4, (0.0,) * 4, (4 / 6) / (2 * (5 / 36) / 6) ** 0.5),
        ((1.0, 0.0), (0.0, 0.0), 0.25 / ((0.5 * 0.5 + 0.75 * 0.25) / 4) ** 0.5),
    ],
)
def test_estimated_rewards_must_lie_standard_errors_apart(best, worst, errors):
    siblings = outcomes("We add both numbers\n\n", *best), outcomes("Times\n\n", *worst)
    steps = (Step(candidates=siblings, chosen=0),)
    one = replace(right(), steps=steps)
    for threshold, pairs in ((errors - 1e-6, 1), (errors + 1e-6, 0)):
        made = built(one, level="step", step_errors=threshold, step_margin=1.0)
        assert len(made.pairs) == pairs


def test_steps_that_state_an_answer_have_no_error():
    siblings = final("So it is surely #### 4"), final("It must be five #### 5")
    one = replace(right(), steps=(Step(candidates=siblings, chosen=0),))
    assert len(built(one, level="step", step_errors=99.0).pairs) == 1


def test_rewards_of_an_audited_step_are_a_models():
    values = {"values": (1.0,), "audit": 1.0}
    siblings = (
        replace(candidate("We add both numbers\n\n"), reward=0.9, **values),
        replace(candidate("Multiply\n\n"), reward=0.2, **values),
    )
    one = replace(right(), steps=(Step(candidates=siblings, chosen=0),))
    assert len(built(one, level="step", step_margin=0.6, step_errors=99.0).pairs) == 1


def settled(*chains, **changes):
    return is_settled(Rollout(problem=PROBLEM, chains=chains, **changes))


def test_a_problem_is_settled_if_all_its_solutions_were_right_or_all_wrong():
    wrong_end, right_end = sibling("a", completion("#### 5")), sibling("a", completion("#### 4"))
    all_wrong = searched((wrong_end,), (final("#### 6"),))
    all_right = searched((right_end,), (final("#### 4"),))
    assert settled(all_wrong)
    assert settled(all_right)
    assert not settled(all_wrong, all_right)
    assert not settled(searched((right_end,), (final("#### 6"),)))  # a completion was right
    assert not settled(all_wrong, error="timed out")
    assert not settled()
    assert not settled(replace(all_wrong, stage=CORRECTION))
    assert not settled(wrong(), right())
    undecided = replace(wrong(), verdict=Verdict.TIMEOUT)
    assert settled(undecided, right())
    assert not settled(undecided)


# Properties

SIBLINGS = st.lists(
    st.builds(
        lambda number, answers, logprob: sibling(
            f"step {number}\n\n",
            *(completion(f"end {i} #### {a}", logprob=logprob) for i, a in enumerate(answers)),
        ),
        st.integers(0, 3),
        st.lists(st.sampled_from("456"), min_size=1, max_size=4),
        st.sampled_from([-0.1, -0.5, -2.0]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda c: c.text,
)


@given(
    SIBLINGS,
    SIBLINGS,
    st.sampled_from("456"),
    st.sampled_from(["worst", "likeliest"]),
    st.integers(1, 3),
)
def test_no_solution_is_used_too_often_and_sides_are_verified(first, second, answer, rule, uses):
    made = searched(first, second, (final(f"the end #### {answer}"),))
    low = replace(made, chain_id="c-min", branch=Branch.MIN)
    rollout = built(made, low, rejected=rule, max_uses=uses)
    used = Counter(side for pair in rollout.pairs for side in (pair.chosen, pair.rejected))
    assert max(used.values(), default=0) <= uses
    assert len(sides(rollout)) == len(rollout.pairs)
    for pair in rollout.pairs:
        assert pair.chosen.endswith("4")
        assert not pair.rejected.endswith("4")
        assert pair.chosen_ids[-1] == pair.rejected_ids[-1] == 0
        spelt = "".join(map(chr, pair.rejected_ids[:-1]))
        assert spelt == pair.rejected
    assert built(made, low, rejected=rule, max_uses=uses) == rollout
    once = built(made, low, rejected=rule).pairs
    assert rollout.pairs[: len(once)] == once


def test_solutions_that_no_pair_has_yet_come_first():
    names = "abcde"
    rights = [completion(f"{name} #### 4", logprob=-0.1) for name in names[:3]]
    wrongs = [completion(f"{name} #### 5", logprob=-0.2) for name in names[3:]]
    made = searched((sibling("Step.\n\n", *rights, *wrongs),), (final("end #### 6"),))
    found = built(made, max_uses=2).pairs
    chosen = Counter(pair.chosen for pair in found)
    assert len(chosen) == 3  # three rights share three wrongs: none is left out


def test_a_flaw_is_counted_once_however_often_a_solution_may_be_used():
    lucky = replace(right(), steps=(Step(candidates=(candidate("2 + 2 = 5 #### 4"),), chosen=0),))
    rollout = built(lucky, wrong(), max_uses=3)
    assert reasons(rollout) == ["false_equation"]


def test_more_uses_reach_past_wrong_sides_that_were_cut():
    cut = [
        replace(wrong(f"cut {n}"), finish_reason=FinishReason.LENGTH, verdict=Verdict.TRUNCATED)
        for n in range(4)
    ]
    sides_of = [*map(right, ("4", "so 4"))], [*map(wrong, ("5", "so 5"))]
    assert len(built(*sides_of[0], *sides_of[1], *cut, max_uses=2).pairs) == 4


def test_a_solution_is_used_again_where_the_rules_allow_it():
    twice = built(BEST, ALSO, max_uses=2)
    assert len(sides(twice)) == 4
    assert sides(built(BEST, ALSO)) < sides(twice)
    assert len(built(BEST, ALSO, max_uses=2, max_per_problem=3).pairs) == 3


def test_a_chain_that_was_cut_is_no_side():
    cut = replace(wrong(), finish_reason=FinishReason.LENGTH, verdict=Verdict.TRUNCATED)
    assert reasons(built(right(), cut)) == ["not_terminated"]
