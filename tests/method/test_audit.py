"""What people decided holds: in pairs, in verdicts, and in the labels of a reward model."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.method import MethodSettings, PairSettings
from sphere_ray.method.audit import NOTHING, REJECTED, Audit, Sides, corrected, text_id
from sphere_ray.method.pairs import Paired, build_pairs
from sphere_ray.records import (
    Branch,
    Chain,
    Completion,
    FinishReason,
    PreferencePair,
    Rollout,
    StageName,
    Step,
    StopReason,
    Verdict,
)
from sphere_ray.reward.labels import labelled_steps

from .fakes import PROBLEM, scored

METHOD = MethodSettings(pairs=PairSettings(min_edit_distance=0))
SEVERAL = MethodSettings(pairs=PairSettings(min_edit_distance=0, max_per_problem=9, max_uses=9))


def completion(text: str, verdict: Verdict) -> Completion:
    return Completion(
        text=text, token_ids=(1, 2), logprob=-0.5, stop_reason=StopReason.END, verdict=verdict
    )


def chain(
    branch: Branch, text: str, verdict: Verdict, *rest: Completion, iteration: int = 0
) -> Chain:
    """A chain of one step, whose value is behind the completions `rest`."""
    decided = [each.verdict for each in rest if each.verdict is not Verdict.TIMEOUT]
    values = tuple(float(verdict is Verdict.CORRECT) for verdict in decided)
    reward = sum(values) / len(values) if values else 0.5
    step = replace(scored(text, reward), completions=rest or None, values=values or None)
    return Chain(
        chain_id=f"p1:{iteration}:self_generation:{branch}",
        stage=StageName.SELF_GENERATION,
        branch=branch,
        model="policy",
        steps=(Step(candidates=(step,), chosen=0),),
        answer=None,
        verdict=verdict,
        finish_reason=FinishReason.ANSWER,
        num_tokens=len(text) + 1,
        seed=0,
    )


RIGHT = chain(Branch.MAX, "It is four. #### 4", Verdict.CORRECT)
WRONG = chain(Branch.MIN, "It is five. #### 5", Verdict.WRONG)
PLAIN = Rollout(problem=PROBLEM, chains=(RIGHT, WRONG))
RICH = Rollout(
    problem=PROBLEM,
    chains=(
        chain(
            Branch.MAX,
            "So it is",
            Verdict.CORRECT,
            completion(" #### 4", Verdict.CORRECT),
            completion(" five #### 5", Verdict.WRONG),
            completion(" late", Verdict.TIMEOUT),
        ),
        chain(Branch.MIN, "It is six. #### 6", Verdict.WRONG),
    ),
)


def verdict_on(text: str, right: bool) -> Audit:
    return Audit(verdicts={"p1": {text_id("p1", text): right}})


def accepting(*pairs: PreferencePair) -> Audit:
    sides = {p.pair_id: Sides(p.stage, p.chosen_chain, p.rejected_chain) for p in pairs}
    return Audit(accepted={"p1": sides})


def refused(made: Paired) -> list[str]:
    return [each.reason for each in made.dropped]


def test_a_rejected_pair_is_dropped_by_its_reason() -> None:
    (pair,) = build_pairs(PLAIN, METHOD).pairs
    made = build_pairs(PLAIN, METHOD, Audit(rejected=frozenset({pair.pair_id})))
    assert made.pairs == ()
    assert [(each.pair_id, each.reason) for each in made.dropped] == [(pair.pair_id, REJECTED)]


def test_the_sides_of_a_rejected_pair_are_free_for_another() -> None:
    (first,) = build_pairs(RICH, METHOD).pairs
    made = build_pairs(RICH, METHOD, Audit(rejected=frozenset({first.pair_id})))
    assert refused(made)[0] == REJECTED
    assert len(made.pairs) == 1
    assert made.pairs[0] != first


def test_an_accepted_pair_comes_first_and_stays_as_it_is() -> None:
    every = build_pairs(RICH, SEVERAL).pairs
    (usual,) = build_pairs(RICH, METHOD).pairs
    assert len(every) > 1
    for pair in every:
        made = build_pairs(RICH, METHOD, accepting(pair))
        assert made.pairs == (pair,)
        if pair != usual:
            assert "per_problem_cap" in refused(made)


def test_no_cap_takes_accepted_pairs() -> None:
    every = build_pairs(RICH, SEVERAL).pairs
    assert set(build_pairs(RICH, METHOD, accepting(*every)).pairs) == set(every)


def test_an_accepted_pair_of_other_texts_means_nothing() -> None:
    (pair,) = build_pairs(PLAIN, METHOD).pairs
    other = replace(PLAIN, chains=(RIGHT, chain(Branch.MIN, "Seven. #### 7", Verdict.WRONG)))
    assert build_pairs(other, METHOD, accepting(pair)) == build_pairs(other, METHOD)


def test_accepted_step_pairs_come_first() -> None:
    rules = {"level": "step", "min_edit_distance": 0, "step_margin": 0.1}
    few, many = (
        MethodSettings(pairs=PairSettings(max_per_problem=number, **rules)) for number in (1, 9)
    )
    steps = tuple(
        Step(
            candidates=(scored(f"yes {n}\n\n", 0.5 + n / 10), scored(f"no {n}\n\n", 0.1)), chosen=0
        )
        for n in range(3)
    )
    rollout = replace(PLAIN, chains=(replace(RIGHT, steps=steps),))
    every = build_pairs(rollout, many).pairs
    assert len(every) == 3
    for pair in every:
        assert build_pairs(rollout, few, accepting(pair)).pairs == (pair,)


def test_a_corrected_verdict_makes_other_pairs() -> None:
    swapped, changed = corrected(PLAIN, verdict_on(WRONG.text, True))
    assert changed == 1
    assert build_pairs(swapped, METHOD).pairs == ()  # both are right now
    audit = Audit(
        verdicts={"p1": {text_id("p1", WRONG.text): True, text_id("p1", RIGHT.text): False}}
    )
    swapped, changed = corrected(PLAIN, audit)
    (pair,) = build_pairs(swapped, METHOD).pairs
    assert changed == 2
    assert (pair.chosen, pair.rejected) == (WRONG.text, RIGHT.text)


def test_a_verdict_that_contradicts_an_accepted_pair_goes_first() -> None:
    (pair,) = build_pairs(PLAIN, METHOD).pairs
    rollout, _ = corrected(PLAIN, verdict_on(RIGHT.text, False))
    made = build_pairs(rollout, METHOD, accepting(pair))
    assert (made.pairs, refused(made)) == ((), ["outcome"])


def test_the_value_of_a_step_counts_its_completions_anew() -> None:
    rollout, changed = corrected(RICH, verdict_on("So it is five #### 5", True))
    step = rollout.chains[0].steps[0].candidate
    assert changed == 1
    assert (step.values, step.reward) == ((1.0, 1.0), 1.0)
    before, after = (labelled_steps(each, trained=False)[0] for each in (RICH, rollout))
    assert (before.value, after.value, after.outcomes) == (0.5, 1.0, 2)


def test_where_a_trained_model_scored_the_audit_of_the_source_changes() -> None:
    chains = tuple(
        replace(
            each,
            steps=(replace(s, candidates=tuple(replace(c, audit=0.5) for c in s.candidates)),),
        )
        for each in RICH.chains
        for s in each.steps
    )
    rollout, _ = corrected(replace(RICH, chains=chains), verdict_on("So it is five #### 5", True))
    step = rollout.chains[0].steps[0].candidate
    assert (step.reward, step.audit) == (0.5, 1.0)


def test_a_text_that_timed_out_can_be_decided() -> None:
    rollout, changed = corrected(RICH, verdict_on("So it is late", False))
    assert changed == 1
    assert rollout.chains[0].steps[0].candidate.values == (1.0, 0.0, 0.0)


def test_the_same_text_has_the_same_verdict_in_any_chain_or_iteration() -> None:
    again = chain(Branch.SAMPLE, WRONG.text + "\n", Verdict.WRONG, iteration=3)
    rollout, changed = corrected(
        replace(PLAIN, chains=(*PLAIN.chains, again)), verdict_on(WRONG.text, True)
    )
    assert [each.verdict for each in rollout.chains] == [Verdict.CORRECT] * 3
    assert changed == 1
    other = replace(PLAIN, problem=replace(PROBLEM, problem_id="p2"))
    assert corrected(other, verdict_on(WRONG.text, True)) == (other, 0)


@given(st.sampled_from(Verdict), st.booleans())
def test_a_verdict_changes_only_where_people_see_it_otherwise(graded: Verdict, right: bool) -> None:
    rollout = replace(PLAIN, chains=(replace(RIGHT, verdict=graded),))
    (found,) = corrected(rollout, verdict_on(RIGHT.text, right))[0].chains
    assert found.correct == right
    if graded in (Verdict.NO_ANSWER, Verdict.TRUNCATED, Verdict.WRONG) and not right:
        assert found.verdict is graded


def test_without_decisions_nothing_changes() -> None:
    assert corrected(RICH, NOTHING) == (RICH, 0)
    assert build_pairs(RICH, SEVERAL, NOTHING) == build_pairs(RICH, SEVERAL)
