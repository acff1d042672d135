"""`grading.verifier`: a user's function decides, and can neither hang nor end what matters."""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator

import pytest
from pydantic import ValidationError

from sphere_ray.config.grading import GradingSettings
from sphere_ray.errors import ConfigError, GraderError
from sphere_ray.grading import GraderPool, check_verifier
from sphere_ray.records import Verdict

Start = Callable[[str], GraderPool]


@pytest.fixture
def start() -> Iterator[Start]:
    pools: list[GraderPool] = []

    def start(function: str) -> GraderPool:
        verifier = f"tests.grading.verifiers:{function}"
        pools.append(GraderPool(GradingSettings(verifier=verifier, workers=1, cpu_limit_s=1.0)))
        return pools[-1]

    yield start
    for pool in pools:
        pool.close()


async def test_a_verifier_is_not_asked_whether_two_answers_are_the_same(start: Start) -> None:
    pool = start("letter")
    assert await pool.same("0.5", "0.5")
    assert not await pool.same("0.5", "1/2")


async def test_letters_of_multiple_choice_are_graded(start: Start) -> None:
    pool = start("letter")
    await pool.self_test()
    responses = ["B looks right, but A + A is C.", "It is B.", "I cannot tell."]
    grades = await asyncio.gather(*(pool.grade(response, "C") for response in responses))
    assert [g.verdict for g in grades] == [Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER]


async def test_nothing_is_decided_before_the_verifier_is_asked(start: Start) -> None:
    grade = await start("letter").grade(r"Not \boxed{A}, no, rather D", r"A")
    assert (grade.verdict, grade.answer) == (Verdict.WRONG, "A")


async def test_the_function_never_runs_in_this_process(start: Start) -> None:
    sys.modules.pop("tests.grading.verifiers", None)
    await start("letter").grade("C", "C")
    assert "tests.grading.verifiers" not in sys.modules


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("return truncated", Verdict.TRUNCATED),
        ("unknown", Verdict.UNGRADABLE),
        ("hang", Verdict.TIMEOUT),
        ("exit", Verdict.UNGRADABLE),
        ("raise too bad", Verdict.UNGRADABLE),
        ("return maybe", Verdict.UNGRADABLE),
    ],
)
async def test_whatever_it_does_becomes_a_verdict_and_the_next_answer_is_graded(
    start: Start, response: str, verdict: Verdict
) -> None:
    pool = start("troubled")
    assert (await pool.grade(response, "")).verdict is verdict
    assert (await pool.grade("fine", "")).verdict is Verdict.CORRECT


async def test_the_reason_of_an_exception_is_logged_once(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    pool = start("troubled")
    with caplog.at_level(logging.WARNING):
        for response in ("fine", *["raise odd gold"] * 25):
            await pool.grade(response, "")
    (said,) = caplog.messages
    assert "tests.grading.verifiers:troubled raised ValueError: odd gold" in said


async def test_a_verifier_that_only_raises_stops_the_run(start: Start) -> None:
    pool = start("troubled")
    for _ in range(19):
        assert (await pool.grade("raise again", "")).verdict is Verdict.UNGRADABLE
    with pytest.raises(GraderError, match=r"raised on each of 20 answers \(ValueError: again\)"):
        await pool.grade("raise again", "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tests.grading.nowhere:f", "No module named 'tests.grading.nowhere'"),
        ("tests.grading.verifiers:nothing", "has no attribute 'nothing'"),
        ("tests.grading.verifiers:one_argument", "too many positional arguments"),
        ("tests.grading.verifiers:no_function", "is not a callable object"),
    ],
)
def test_a_verifier_that_cannot_be_used_is_one_sentence_at_the_start(
    name: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_verifier(GradingSettings(verifier=name))
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert message.startswith(f"grading.verifier: {name} cannot be used (")
    assert reason in message
    assert "\n" not in message


def test_a_usable_verifier_or_none_at_all_passes_the_check() -> None:
    check_verifier(GradingSettings(verifier="tests.grading.verifiers:letter"))
    check_verifier(GradingSettings())


@pytest.mark.parametrize("name", ["letters", "my.module:", ":f", "my module:f"])
def test_a_verifier_is_named_as_module_and_function(name: str) -> None:
    with pytest.raises(ValidationError, match="verifier"):
        GradingSettings(verifier=name)
