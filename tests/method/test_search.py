import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere_ray.config.method import SearchSettings
from sphere_ray.errors import EngineError, RequestError
from sphere_ray.method.ports import Score
from sphere_ray.method.search import best_and_worst, pruned_search, sampled_search
from sphere_ray.method.steps import is_final, is_plausible
from sphere_ray.records import Branch, FinishReason, StopReason, Verdict

from .fakes import (
    PROBLEM,
    FakeScorer,
    always,
    candidate,
    prefix_text,
    scored,
    script,
    search_of,
    wander,
)

# Multiples of 1/64 add and subtract exactly, so ties stay ties under any form of the advantage.
EXACT = st.integers(0, 64).map(lambda n: n / 64)
SIBLINGS = st.lists(st.tuples(EXACT, EXACT), min_size=1, max_size=7).map(
    lambda pairs: [scored(f"s{i}\n\n", r, -p) for i, (r, p) in enumerate(pairs)]
)
SEEDS = st.integers(0, 2**32)


def rewarded(siblings, form):
    return [replace(c, reward=form(c.reward)) for c in siblings]


# Choosing among siblings


@given(SIBLINGS, EXACT, st.integers(0, 16))
def test_the_choice_does_not_depend_on_the_form_of_the_advantage(siblings, parent, tolerance):
    plain = SearchSettings(tie_tolerance=tolerance / 64)
    doubled = SearchSettings(tie_tolerance=tolerance / 32)
    gain = rewarded(siblings, lambda reward: reward - parent)
    reward_plus_gain = rewarded(siblings, lambda reward: reward + (reward - parent))
    chosen = best_and_worst(siblings, plain)
    assert best_and_worst(gain, plain) == chosen
    assert best_and_worst(reward_plus_gain, doubled) == chosen


@given(SIBLINGS, st.integers(0, 16))
def test_best_and_worst_are_within_tolerance_of_the_extremes_and_differ(siblings, tolerance):
    settings = SearchSettings(tie_tolerance=tolerance / 64)
    best, worst = best_and_worst(siblings, settings)
    rewards = [c.reward for c in siblings]
    assert rewards[best] >= max(rewards) - settings.tie_tolerance
    others = [r for i, r in enumerate(rewards) if i != best] or rewards
    assert rewards[worst] <= min(others) + settings.tie_tolerance
    assert (best != worst) == (len(siblings) > 1)


def test_ties_go_to_the_likelier_best_and_the_less_likely_worst():
    siblings = [
        scored("a\n\n", 0.80, -0.9),
        scored("b\n\n", 0.79, -0.1),
        scored("c\n\n", 0.10, -0.2),
        scored("d\n\n", 0.11, -0.8),
    ]
    assert best_and_worst(siblings, SearchSettings(tie_tolerance=0.02)) == (1, 3)
    assert best_and_worst(siblings, SearchSettings(tie_tolerance=0)) == (0, 2)


def test_implausible_and_unscored_siblings_are_never_chosen():
    cut = replace(candidate("x", StopReason.LENGTH), reward=1.0)
    blank = replace(candidate("\n\n"), reward=0.0)
    siblings = [cut, blank, candidate("unscored\n\n"), scored("fine\n\n", 0.5)]
    assert best_and_worst(siblings, SearchSettings()) == (3, 3)
    assert best_and_worst(siblings[:3], SearchSettings()) is None


# Growing chains


TREE = {
    "": ["good [0.9]\n\n", "bad [0.2]\n\n"],
    "good [0.9]\n\n": ["[0.95] #### 4", "[0.5] #### 9"],
    "bad [0.2]\n\n": ["[0.3] #### 7", "[0.1] #### 5"],
}


async def test_two_chains_take_the_best_and_the_worst_of_their_own_siblings():
    result = await pruned_search(search_of(script(TREE)))
    best, worst = result.chains
    assert (best.branch, best.text) == (Branch.MAX, "good [0.9]\n\n[0.95] #### 4")
    assert (worst.branch, worst.text) == (Branch.MIN, "bad [0.2]\n\n[0.1] #### 5")
    assert (best.verdict, worst.verdict) == (Verdict.CORRECT, Verdict.WRONG)
    assert (best.answer, worst.answer) == ("4", "5")
    assert best.finish_reason is worst.finish_reason is FinishReason.ANSWER


async def test_the_first_candidates_are_shared_and_siblings_recorded():
    search = search_of(script(TREE))
    best, worst = (await pruned_search(search)).chains
    assert [prefix_text(r) for r in search.generator.requests].count("") == 1
    assert best.steps[0].candidates == worst.steps[0].candidates
    assert [c.reward for c in best.steps[1].candidates] == [0.95, 0.5]


async def test_prefixes_are_the_engines_own_tokens_and_scores_see_the_steps_before():
    search = search_of(script(TREE))
    best, _ = (await pruned_search(search)).chains
    continued = next(r for r in search.generator.requests if r.prefix_ids[:1] == (ord("g"),))
    assert continued.prefix_ids == best.steps[0].candidate.token_ids
    asked = next(r for r in search.scorer.requests if "#### 4" in r.candidates[0].text)
    assert [c.text for c in asked.prefix] == ["good [0.9]\n\n"]


async def test_identical_siblings_are_merged_and_scored_once():
    search = search_of(
        always("same [0.4]\n\n", "same  [0.4]\n\n", "other [0.6] #### 4"),
        SearchSettings(num_candidates=3, max_depth=1),
    )
    best, _ = (await pruned_search(search)).chains
    assert [c.text for c in best.steps[0].candidates] == ["same [0.4]\n\n", "other [0.6] #### 4"]
    assert len(search.scorer.requests[0].candidates) == 2


@pytest.mark.parametrize("top_up", [True, False])
async def test_lost_candidates_are_asked_for_once_more(top_up):
    def propose(request):
        texts = ["one [0.1]\n\n"] * 4 if request.n == 4 else ["two [0.9]\n\n", "one [0.1]\n\n"] * 2
        return [candidate(text) for text in texts[: request.n]]

    search = search_of(propose, SearchSettings(num_candidates=4, max_depth=1, top_up=top_up))
    result = await pruned_search(search)
    assert [r.n for r in search.generator.requests] == ([4, 3] if top_up else [4])
    found = [c.text for c in result.chains[0].steps[0].candidates]
    assert found == ["one [0.1]\n\n", "two [0.9]\n\n"][: 1 + top_up]
    assert result.tokens == search.generator.decoded
    # The same limits and the same place, but another draw.
    first, *more = search.generator.requests
    assert [replace(each, n=4, seed=first.seed) for each in more] == [first] * len(more)


async def test_chains_stay_together_until_their_siblings_differ():
    tree = {
        "": ["same\n\n"],
        "same\n\n": ["up [0.9] #### 4", "down [0.1] #### 5"],
    }
    search = search_of(script(tree))
    best, worst = (await pruned_search(search)).chains
    assert {prefix_text(r) for r in search.generator.requests} == {"", "same\n\n"}
    assert (best.text, worst.text) == ("same\n\nup [0.9] #### 4", "same\n\ndown [0.1] #### 5")


async def test_chains_that_never_part_are_the_same():
    best, worst = (await pruned_search(search_of(always("only #### 4")))).chains
    assert best.steps == worst.steps
    assert best.chain_id != worst.chain_id


# How chains end


async def test_the_depth_limit_truncates():
    settings = SearchSettings(num_candidates=2, max_depth=3)
    search = search_of(always("on [0.9]\n\n", "and on [0.1]\n\n"), settings)
    for chain in (await pruned_search(search)).chains:
        assert (chain.finish_reason, chain.verdict) == (FinishReason.DEPTH, Verdict.TRUNCATED)
        assert (len(chain.steps), chain.answer) == (3, None)
    assert search.grader.responses == []


def limited(request):
    texts = ("aaaa\n\n", "bbbb\n\n")
    if request.max_tokens >= 6:
        return [candidate(text) for text in texts]
    return [candidate(text[: request.max_tokens], StopReason.LENGTH) for text in texts]


async def test_the_token_limit_truncates_and_bounds_the_last_request():
    settings = SearchSettings(num_candidates=2, max_step_tokens=6, max_chain_tokens=10)
    search = search_of(limited, settings)
    result = await pruned_search(search)
    assert {chain.finish_reason for chain in result.chains} == {FinishReason.LENGTH}
    assert {chain.verdict for chain in result.chains} == {Verdict.TRUNCATED}
    assert [r.max_tokens for r in search.generator.requests] == [6, 4, 4]


@pytest.mark.parametrize("text", ["\n\n", ""])
async def test_no_plausible_first_step_is_no_answer(text):
    first, second = (await pruned_search(search_of(always(text)))).chains
    assert first.finish_reason is second.finish_reason is FinishReason.NO_CANDIDATE
    assert first.verdict is second.verdict is Verdict.NO_ANSWER
    assert first.steps == ()


async def test_a_bare_end_of_sequence_ends_the_chain_before_it():
    tree = {"": ["so it is #### 4 then\n\n"], "so it is #### 4 then\n\n": [""]}
    chain = (await pruned_search(search_of(script(tree)))).chains[0]
    assert (chain.finish_reason, chain.verdict) == (FinishReason.ANSWER, Verdict.CORRECT)
    assert len(chain.steps) == 1


# Properties over a random world


def _run(search):
    return asyncio.run(pruned_search(search))


@given(SEEDS, st.integers(2, 4), st.integers(1, 5), st.integers(20, 90))
def test_limits_and_accounts_hold(seed, num_candidates, max_depth, max_chain_tokens):
    settings = SearchSettings(
        num_candidates=num_candidates,
        max_depth=max_depth,
        max_step_tokens=20,
        max_chain_tokens=max_chain_tokens,
    )
    scorer = FakeScorer(tokens=3)
    search = search_of(wander, settings, seed=seed, scorer=scorer)
    result = _run(search)
    requests = search.generator.requests
    whole = [r for r in requests if r.n == num_candidates]
    assert len(whole) <= 2 * max_depth
    assert len(requests) <= 2 * len(whole)
    assert all(r.max_tokens <= settings.max_step_tokens for r in requests)
    assert result.tokens == search.generator.decoded + scorer.decoded
    assert search.progress.counts == {"tokens": result.tokens, "chains": 2}
    for chain in result.chains:
        assert len(chain.steps) <= max_depth
        assert chain.num_tokens == len(chain.token_ids) <= max_chain_tokens
        assert all(is_plausible(step.candidate) for step in chain.steps)
        assert not any(is_final(step.candidate) for step in chain.steps[:-1])


@given(SEEDS, SEEDS)
def test_completion_order_is_irrelevant(seed, order):
    assert _run(search_of(wander, seed=seed)) == _run(search_of(wander, seed=seed, order=order))


@given(SEEDS)
def test_every_request_has_its_own_seed(seed):
    search = search_of(wander, seed=seed)
    _run(search)
    seeds = [r.seed for r in (*search.generator.requests, *search.scorer.requests)]
    assert len(set(seeds)) == len(seeds)


# Errors


class FailingScorer(FakeScorer):
    def __init__(self, error):
        super().__init__()
        self._error = error

    async def score(self, request):
        if request.prefix and request.prefix[0].text.startswith("good"):
            raise self._error
        if request.prefix:
            await asyncio.Event().wait()
        return await super().score(request)


@pytest.mark.parametrize("error", [EngineError("gone"), RequestError("refused")])
async def test_errors_propagate_as_they_are_and_stop_the_other_branch(error):
    before = asyncio.all_tasks()
    with pytest.raises(type(error)) as caught:
        await pruned_search(search_of(script(TREE), scorer=FailingScorer(error)))
    assert caught.value is error
    assert asyncio.all_tasks() == before


async def test_too_few_candidates_break_the_contract():
    with pytest.raises(EngineError, match="1 candidates where 2"):
        await pruned_search(search_of(lambda _: [candidate("a\n\n")]))


@pytest.mark.parametrize(
    "scores", [(), (Score(reward=1.5),) * 2, (Score(reward=float("nan")),) * 2]
)
async def test_wrong_scores_break_the_contract(scores):
    class BadScorer(FakeScorer):
        async def score(self, _):
            return scores

    with pytest.raises(EngineError, match="scorer"):
        await pruned_search(search_of(script(TREE), scorer=BadScorer()))


# The baseline


async def test_samples_are_whole_chains_without_a_scorer():
    settings = SearchSettings(strategy="sampled", num_samples=3, max_chain_tokens=600)
    texts = ["a\n\nb #### 4", "c #### 5", "no idea"]
    search = search_of(lambda _: [candidate(t, StopReason.END) for t in texts], settings)
    result = await sampled_search(search)
    (request,) = search.generator.requests
    assert (request.n, request.max_tokens, request.stop) == (3, 600, ())
    assert search.scorer.requests == []
    assert [chain.text for chain in result.chains] == texts
    assert [chain.verdict.value for chain in result.chains] == ["correct", "wrong", "no_answer"]
    assert {chain.branch for chain in result.chains} == {Branch.SAMPLE}
    assert len({chain.chain_id for chain in result.chains}) == 3
    assert result.tokens == search.generator.decoded


async def test_a_cut_sample_is_truncated_not_graded():
    settings = SearchSettings(strategy="sampled", num_samples=2)
    search = search_of(lambda _: [candidate("#### 4", StopReason.LENGTH)] * 2, settings)
    result = await sampled_search(search)
    assert {chain.verdict for chain in result.chains} == {Verdict.TRUNCATED}
    assert search.grader.responses == []


async def test_chains_record_where_they_come_from():
    chain = (await pruned_search(search_of(script(TREE), seed=5))).chains[0]
    assert (chain.model, chain.seed, chain.chain_id) == ("policy", 5, "p1:0:self_generation:max")
    assert PROBLEM.problem_id in chain.chain_id
