import asyncio
from dataclasses import dataclass, field

import pytest

from sphere_ray.config.method import SearchSettings
from sphere_ray.config.scorers import RolloutValueSettings
from sphere_ray.engines.rollout_value import RolloutValueScorer
from sphere_ray.errors import DeadlineExceededError, EngineError, GraderError, RowError
from sphere_ray.method.ports import GenerateRequest, Grade, ScoreRequest
from sphere_ray.records import Candidate, Message, Problem, StopReason, Verdict

PROBLEM = Problem(problem_id="p", question="6 * 7?", answer="42", source="test")
QUESTION = (Message(role="user", content=PROBLEM.question),)
LIMITS = SearchSettings(max_step_tokens=20, max_chain_tokens=20)


def step(text: str, tokens: int = 2, stop_reason: StopReason = StopReason.BOUNDARY) -> Candidate:
    ids = tuple(range(tokens))
    return Candidate(text=text, token_ids=ids, logprob=-1.0, stop_reason=stop_reason)


@dataclass
class Scripted:
    """Continues a prefix of so many tokens with the endings written down for it."""

    endings: dict[int, list[str]] = field(default_factory=dict)
    failure: Exception | None = None
    asked: list[GenerateRequest] = field(default_factory=list)
    cancelled: int = 0
    model: str = "scripted"

    async def generate(self, request: GenerateRequest) -> tuple[Candidate, ...]:
        self.asked.append(request)
        if len(request.prefix_ids) in self.endings:
            endings = self.endings[len(request.prefix_ids)]
            return tuple(step(text, 3, StopReason.END) for text in endings)
        if self.failure:
            raise self.failure
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError


@dataclass
class Judge:
    """Correct if the response ends with the gold; some endings have a verdict of their own."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    failure: Exception | None = None
    seen: list[str] = field(default_factory=list)

    async def grade(self, response: str, gold: str) -> Grade:
        self.seen.append(response)
        if self.failure:
            raise self.failure
        for ending, verdict in self.verdicts.items():
            if response.endswith(ending):
                return Grade(verdict=verdict, answer=None)
        right = response.endswith(gold)
        return Grade(verdict=Verdict.CORRECT if right else Verdict.WRONG, answer=None)


def request(*candidates: Candidate, prefix: tuple[Candidate, ...] = ()) -> ScoreRequest:
    return ScoreRequest(
        problem=PROBLEM,
        messages=QUESTION,
        prefix=prefix,
        candidates=candidates,
        seed=9,
        priority=4,
    )


def scorer(generator: Scripted, judge: Judge, completions: int = 4) -> RolloutValueScorer:
    settings = RolloutValueSettings(num_completions=completions, temperature=0.7)
    return RolloutValueScorer(generator, judge, settings, LIMITS)


async def test_the_reward_is_the_share_of_completions_that_reach_the_gold() -> None:
    generator = Scripted({5: ["so 42", "so 41", "42", "no"], 6: ["1", "2", "3", "4"]})
    judge = Judge()
    first, second = await scorer(generator, judge).score(
        request(step("a\n\n", 2), step("b\n\n", 3), prefix=(step("p\n\n", 3),))
    )
    assert (first.reward, first.values, first.tokens) == (0.5, (1.0, 0.0, 1.0, 0.0), 12)
    assert (second.reward, second.values, second.tokens) == (0.0, (0.0,) * 4, 12)
    assert "p\n\na\n\nso 42" in judge.seen
    assert "p\n\nb\n\n1" in judge.seen


async def test_completions_continue_the_ids_and_keep_within_the_chain() -> None:
    generator = Scripted({5: ["42"]})
    prefix = (step("p\n\n", 3),)
    await scorer(generator, Judge()).score(request(step("a\n\n", 2), prefix=prefix))
    (asked,) = generator.asked
    assert asked.messages == QUESTION
    assert asked.prefix_ids == (0, 1, 2, 0, 1)
    assert asked.max_tokens == LIMITS.max_chain_tokens - 5
    assert asked.stop == ()
    assert (asked.n, asked.temperature, asked.priority) == (4, 0.7, 4)


async def test_siblings_get_completions_of_their_own_and_repeats_the_same() -> None:
    generator = Scripted({2: ["42"]})
    subject = scorer(generator, Judge())
    await subject.score(request(step("a\n\n"), step("b\n\n")))
    await subject.score(request(step("a\n\n"), step("b\n\n")))
    seeds = [asked.seed for asked in generator.asked]
    assert seeds[:2] == seeds[2:]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("candidate", "reward"),
    [
        (step("it is 42", stop_reason=StopReason.END), 1.0),
        (step("it is 41", stop_reason=StopReason.END), 0.0),
        (step("#### 42"), 1.0),
    ],
)
async def test_a_step_that_ends_the_chain_is_graded_itself(
    candidate: Candidate, reward: float
) -> None:
    generator = Scripted()
    (score,) = await scorer(generator, Judge()).score(request(candidate))
    assert (score.reward, score.values, score.tokens) == (reward, (reward,), 0)
    assert generator.asked == []


async def test_a_chain_without_tokens_left_and_without_an_answer_is_worth_nothing() -> None:
    (score,) = await scorer(Scripted(), Judge()).score(request(step("42 so far\n\n", 20)))
    assert (score.reward, score.tokens) == (0.0, 0)


@pytest.mark.parametrize(
    "verdict",
    [v for v in Verdict if v not in (Verdict.CORRECT, Verdict.TIMEOUT)],
    ids=lambda v: v.value,
)
async def test_only_a_correct_verdict_reaches_the_gold(verdict: Verdict) -> None:
    judge = Judge(verdicts={"odd": verdict})
    (score,) = await scorer(Scripted({2: ["odd", "42"]}), judge).score(request(step("a\n\n")))
    assert score.values == (0.0, 1.0)


async def test_a_timeout_of_the_grader_is_no_zero() -> None:
    judge = Judge(verdicts={"odd": Verdict.TIMEOUT})
    generator = Scripted({2: ["odd", "42", "41"], 3: ["odd"]})
    (score,) = await scorer(generator, judge).score(request(step("a\n\n")))
    assert (score.reward, score.values, score.tokens) == (0.5, (1.0, 0.0), 9)
    with pytest.raises(DeadlineExceededError):
        await scorer(generator, judge).score(request(step("a\n\n", 3)))


async def test_completions_are_kept_with_the_graders_own_verdicts() -> None:
    verdicts = {"odd": Verdict.TIMEOUT, "none": Verdict.NO_ANSWER, "so": Verdict.UNGRADABLE}
    generator = Scripted({2: ["is 42", "is 41", "odd", "none", "so"]})
    (score,) = await scorer(generator, Judge(verdicts=verdicts)).score(request(step("a\n\n")))
    assert score.completions is not None
    assert [(each.text, each.verdict) for each in score.completions] == [
        ("is 42", Verdict.CORRECT),
        ("is 41", Verdict.WRONG),
        *verdicts.items(),
    ]
    assert {each.token_ids for each in score.completions} == {(0, 1, 2)}
    assert {each.logprob for each in score.completions} == {-1.0}
    assert score.values == (1.0, 0.0, 0.0, 0.0)


async def test_a_cut_completion_is_truncated_and_never_graded() -> None:
    generator, judge = Scripted(), Judge()

    async def cut(request: GenerateRequest) -> tuple[Candidate, ...]:
        return (step("42", 3, StopReason.LENGTH),) * request.n

    generator.generate = cut  # type: ignore[method-assign]  # every completion is cut
    (score,) = await scorer(generator, judge, 2).score(request(step("a\n\n")))
    assert (score.reward, judge.seen) == (0.0, [])
    assert [each.verdict for each in score.completions or ()] == [Verdict.TRUNCATED] * 2


async def test_a_step_that_states_an_answer_has_one_empty_completion() -> None:
    judge = Judge(verdicts={"maybe": Verdict.UNGRADABLE})
    last = step("it is maybe", stop_reason=StopReason.END)
    (score,) = await scorer(Scripted(), judge).score(request(last))
    (own,) = score.completions or ()
    assert (own.text, own.token_ids, own.verdict) == ("", (), Verdict.UNGRADABLE)


@pytest.mark.parametrize("failure", [RowError("no"), EngineError("gone")])
async def test_engine_errors_propagate_as_they_are_and_cancel_the_rest(failure: Exception) -> None:
    generator = Scripted()

    async def fail(request: GenerateRequest) -> tuple[Candidate, ...]:
        if len(request.prefix_ids) == 3:
            await asyncio.sleep(0)
            raise failure
        return await Scripted.generate(generator, request)

    generator.generate = fail  # type: ignore[method-assign]  # one request of two fails
    with pytest.raises(type(failure)) as caught:
        await scorer(generator, Judge()).score(request(step("a\n\n", 2), step("b\n\n", 3)))
    assert caught.value is failure
    assert generator.cancelled == 1


async def test_a_lost_grader_is_no_reward() -> None:
    judge = Judge(failure=GraderError("lost"))
    with pytest.raises(GraderError):
        await scorer(Scripted({2: ["42"]}), judge).score(request(step("a\n\n")))
