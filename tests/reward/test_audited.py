"""The trained model scores; a share of sibling sets is scored by the source before it as well."""

import pytest

from sphere_ray.errors import EngineError, RequestError
from sphere_ray.method.ports import Score, ScoreRequest
from sphere_ray.reward.audited import AuditedScorer
from tests.method.fakes import PROBLEM, candidate


class Fixed:
    def __init__(self, reward, *, values=None, tokens=0, extra=0):
        self.asked = []
        self._score = Score(reward=reward, values=values, tokens=tokens)
        self._extra = extra

    async def score(self, request):
        self.asked.append(request)
        return (self._score,) * (len(request.candidates) + self._extra)


def ask(seed):
    return ScoreRequest(
        problem=PROBLEM,
        messages=(),
        prefix=(),
        candidates=(candidate("a\n\n"), candidate("b\n\n")),
        seed=seed,
    )


async def test_the_reward_is_always_the_trained_models():
    trained, source = Fixed(0.3), Fixed(0.75, values=(1.0, 0.5), tokens=40)
    scorer = AuditedScorer(trained, source, 0.25)
    scores = [await scorer.score(ask(seed)) for seed in range(400)]
    assert {score.reward for pair in scores for score in pair} == {0.3}
    audited = [pair for pair in scores if pair[0].audit is not None]
    assert len(audited) == len(source.asked) == pytest.approx(100, abs=35)
    for one, other in audited:
        assert one == other == Score(reward=0.3, audit=0.75, values=(1.0, 0.5), tokens=40)


async def test_which_sets_are_audited_depends_on_identity_alone():
    async def audited(seeds):
        scorer = AuditedScorer(Fixed(0.3), Fixed(0.5), 0.5)
        return {seed: (await scorer.score(ask(seed)))[0].audit is not None for seed in seeds}

    assert await audited(range(40)) == await audited(reversed(range(40)))


@pytest.mark.parametrize(("share", "times"), [(0.0, 0), (1.0, 20)])
async def test_none_and_all_can_be_audited(share, times):
    source = Fixed(0.5)
    scorer = AuditedScorer(Fixed(0.3), source, share)
    for seed in range(20):
        await scorer.score(ask(seed))
    assert len(source.asked) == times


async def test_errors_of_either_source_propagate():
    class Failing:
        async def score(self, request):
            raise RequestError("no")

    for pair in ((Failing(), Fixed(0.5)), (Fixed(0.5), Failing())):
        with pytest.raises(RequestError):
            await AuditedScorer(*pair, 1.0).score(ask(0))
    with pytest.raises(EngineError, match="2 and 3"):
        await AuditedScorer(Fixed(0.3), Fixed(0.5, extra=1), 1.0).score(ask(0))
