"""Counts from columns against counts from records, on random rollouts written as a run writes."""

import asyncio
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sphere_ray.config.method import MethodSettings, SearchSettings, StageSettings
from sphere_ray.method.sphere import sphere
from sphere_ray.records import CORRECTION_CHECK, Branch, Rollout, StageName
from sphere_ray.reporting.columns import (
    REWARD_COLUMNS,
    ROLLOUT_COLUMNS,
    count_rollouts,
    judged_steps,
    scored_steps,
)
from sphere_ray.reporting.reward_summary import reward_summary
from sphere_ray.reward.quality import rank_correlation
from sphere_ray.schema import to_table
from tests.method.fakes import PROBLEM, FakeScorer, wander, world


class Audited(FakeScorer):
    """Audits half of the sibling sets, by the seed of the request."""

    async def score(self, request):
        scores = await super().score(request)
        if request.seed % 2:
            return scores
        return tuple(replace(s, audit=(s.reward + 0.3 * (i % 2)) / 2) for i, s in enumerate(scores))


def rolled_out(number, strategy="pruned_steps"):
    method = MethodSettings(
        search=SearchSettings(strategy=strategy, num_candidates=3, num_samples=4, max_depth=4),
        stages=StageSettings(correction_check_share=0.5),
    )
    there = replace(world(wander, settings=method), scorer=Audited())
    rollout = asyncio.run(sphere(replace(PROBLEM, problem_id=f"p{number}"), there))
    return replace(rollout, error="RequestError: refused") if number % 7 == 0 else rollout


def record_counts(rollouts):
    """Stages by the route, one record at a time."""
    chains, correct = Counter(), Counter()
    for rollout in rollouts:
        checked = any(entry.startswith(CORRECTION_CHECK) for entry in rollout.route)
        for chain in rollout.chains:
            second = chain.stage is StageName.SELF_CORRECTION
            stage = CORRECTION_CHECK if checked and second else chain.stage
            chains[stage] += 1
            correct[stage] += chain.correct
    return chains, +correct


def record_scores(rollouts):
    """Every candidate with a reward once, by the tokens before it."""
    found = []
    for rollout in rollouts:
        seen = set()
        for chain in rollout.chains:
            before = ()
            for step in chain.steps:
                if (chain.stage, before, step.candidates) not in seen:
                    seen.add((chain.stage, before, step.candidates))
                    found += [(c.reward, c.audit) for c in step.candidates if c.reward is not None]
                before += step.candidate.token_ids
    return found


def record_siblings(rollouts):
    """How many candidates each position of a search has, once for the chains that share it."""
    found = {
        (number, chain.stage, tuple(s.candidate.token_ids for s in chain.steps[:depth])): len(
            step.candidates
        )
        for number, rollout in enumerate(rollouts)
        for chain in rollout.chains
        for depth, step in enumerate(chain.steps)
        if any(c.reward is not None for c in step.candidates)
    }
    return list(found.values())


def written(tmp_path_factory, rollouts, columns):
    path = tmp_path_factory.mktemp("rollouts") / "part.parquet"
    pq.write_table(to_table(rollouts, Rollout), path)
    return pq.ParquetFile(path).read(columns=list(columns))


ROLLOUTS = st.lists(
    st.builds(rolled_out, st.integers(0, 300), st.sampled_from(["pruned_steps", "sampled"])),
    max_size=6,
)


@given(ROLLOUTS, st.integers(0, 6))
@settings(deadline=None, max_examples=60)
def test_columns_and_records_give_the_same_counts(tmp_path_factory, rollouts, cut):
    parts = (rollouts[:cut], rollouts[cut:])
    tables = [written(tmp_path_factory, part, ROLLOUT_COLUMNS) for part in parts]
    counts = count_rollouts(iter(tables))
    assert (counts.chains, counts.correct) == record_counts(rollouts)
    assert counts.routes == Counter(entry for r in rollouts for entry in r.route)
    assert counts.problems == len(rollouts)
    assert counts.failed == sum(r.error is not None for r in rollouts)
    assert counts.tokens == sum(r.tokens for r in rollouts)
    spent = Counter()
    for each in rollouts:
        for entry, tokens in zip(each.route, each.stage_tokens, strict=True):
            spent[entry.split(":")[0]] += tokens
    assert counts.stage_tokens == spent
    assert spent.total() == counts.tokens


@given(ROLLOUTS)
@settings(deadline=None, max_examples=60)
def test_every_scored_step_counts_once_although_chains_share_their_first_steps(
    tmp_path_factory, rollouts
):
    table = written(tmp_path_factory, rollouts, REWARD_COLUMNS)
    steps = scored_steps(table)
    expected = record_scores(rollouts)
    found = zip(steps.rewards.to_pylist(), steps.audits.to_pylist(), strict=True)
    assert Counter(found) == Counter(expected)
    summary = reward_summary([table], "rollout_value")
    siblings = record_siblings(rollouts)
    mean = round(sum(siblings) / len(siblings), 3) if siblings else None
    assert summary["distinct_candidates"] == mean
    audited = [pair for pair in expected if pair[1] is not None]
    assert (summary["steps"], summary["audited"]) == (len(expected), len(audited))
    agreement = rank_correlation([r for r, _ in audited], [a for _, a in audited])
    assert summary["agreement"] == (None if agreement is None else pytest.approx(agreement))


def test_the_steps_of_sol_max_are_judged_by_their_rewards(tmp_path_factory):
    rollouts = [rolled_out(number) for number in range(40)]
    best = [
        chain
        for rollout in rollouts
        for chain in rollout.chains
        if (chain.stage, chain.branch) == (StageName.SELF_GENERATION, Branch.MAX)
    ]
    found = judged_steps(written(tmp_path_factory, rollouts, REWARD_COLUMNS))
    assert found.flags.tolist() == [s.candidate.reward >= 0.5 for c in best for s in c.steps]
    assert found.lengths.tolist() == [len(chain.steps) for chain in best]
    assert found.right.tolist() == [chain.correct for chain in best]
    assert {0, 1} <= set(found.flags.tolist())


def test_steps_that_nothing_scored_are_not_judged(tmp_path_factory):
    table = written(tmp_path_factory, [rolled_out(1, "sampled")], REWARD_COLUMNS)
    assert len(judged_steps(table).lengths) == 0


def test_random_rollouts_have_all_that_is_counted():
    """Else the two properties above would say little."""
    rollouts = [rolled_out(number) for number in range(60)]
    chains, _ = record_counts(rollouts)
    assert set(chains) == {*StageName, CORRECTION_CHECK}
    once = len(record_scores(rollouts))
    with_repeats = sum(
        c.reward is not None
        for r in rollouts
        for chain in r.chains
        for step in chain.steps
        for c in step.candidates
    )
    assert once < with_repeats


def test_slices_of_a_table_count_like_tables():
    rollouts = [rolled_out(number) for number in range(12)]
    whole = to_table(rollouts, Rollout)
    assert count_rollouts([whole.slice(5, 4)]) == count_rollouts([to_table(rollouts[5:9], Rollout)])
    rewards = scored_steps(whole.slice(5, 4)).rewards
    assert sorted(rewards.to_pylist()) == sorted(r for r, _ in record_scores(rollouts[5:9]))
    halves = pa.concat_tables([whole.slice(0, 6), whole.slice(6)])
    assert count_rollouts([halves]) == count_rollouts([whole])


def test_two_searches_of_a_stage_do_not_share_steps():
    rollout = rolled_out(1)
    again = [replace(chain, seed=chain.seed + 1) for chain in rollout.chains]
    table = to_table([replace(rollout, chains=(*rollout.chains, *again))], Rollout)
    assert len(scored_steps(table).rewards) == 2 * len(record_scores([rollout]))
