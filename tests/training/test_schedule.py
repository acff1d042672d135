import pytest

from sphere_ray.config.training import TrainingSettings
from sphere_ray.training.schedule import learning_rate


def rates(schedule: str, warmup: float, steps: int = 10) -> list[float]:
    settings = TrainingSettings(schedule=schedule, warmup_ratio=warmup)  # type: ignore[arg-type]
    return [learning_rate(step, steps, 2.0, settings) for step in range(steps)]


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    assert rates("constant", 0.4) == pytest.approx([0.5, 1.0, 1.5, 2.0] + [2.0] * 6)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_it_falls_from_the_peak_without_reaching_zero(schedule: str) -> None:
    values = rates(schedule, 0.0)
    assert values[0] == 2.0
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < 0.5


def test_cosine_is_half_way_at_half_time() -> None:
    assert rates("cosine", 0.0)[5] == pytest.approx(1.0)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.99])
def test_a_single_step_has_a_rate(warmup: float) -> None:
    assert rates("cosine", warmup, steps=1) == [2.0]
