"""Graders as Ray actors: what they decide, and a user's verifier behind them."""

from collections.abc import Iterator

import pytest
import ray

from sphere_ray.config.grading import GradingSettings
from sphere_ray.errors import ConfigError, GraderError
from sphere_ray.records import Verdict
from sphere_ray.rollout.grader import GraderActor, GraderClient, start_graders

pytestmark = [pytest.mark.ray]


@pytest.fixture(autouse=True, scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def with_verifier(function: str) -> GradingSettings:
    return GradingSettings(verifier=f"tests.grading.verifiers:{function}", workers=1)


async def test_clear_answers_and_algebra_are_graded() -> None:
    graders = start_graders(GradingSettings(workers=1))
    assert (await graders.grade("#### 5", "5")).verdict is Verdict.CORRECT
    grade = await graders.grade(r"\boxed{(x+1)^2}", "$x^2+2x+1$")
    assert (grade.verdict, grade.answer) == (Verdict.CORRECT, "(x+1)^2")


async def test_a_verifier_sees_the_whole_response() -> None:
    graders = start_graders(with_verifier("letter"))
    grade = await graders.grade(r"\boxed{5} apples are option B", "B")
    assert (grade.verdict, grade.answer) == (Verdict.CORRECT, "5")


async def test_the_grader_of_another_node_serves_where_one_is_lost() -> None:
    start = ray.remote(GraderActor)
    lost, other = (start.remote(GradingSettings(workers=1)) for _ in range(2))
    ray.kill(lost)
    graders = GraderClient({"lost": lost, "other": other})
    for _ in range(8):
        assert await graders.same("(x+1)^2", "x^2+2x+1")
    ray.kill(other)

    async def asked() -> None:
        for _ in range(1000):  # one that is told to end may answer once more
            await graders.same("(x+1)^2", "x^2+2x+1")

    with pytest.raises(GraderError, match="the graders of all nodes are gone"):
        await asked()


def test_a_verifier_that_cannot_be_used_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="too many positional arguments"):
        start_graders(with_verifier("one_argument"))
