"""A phase that stands still says why; one that works is left in peace."""

from dataclasses import replace

import pytest

from sphere_ray.reporting.progress import PhaseState, Snapshot
from sphere_ray.reporting.standstill import Standstill, held_by_stage

START = Snapshot(name="rollouts", unit="problems", total=6000, iteration=0, done=4758)
ENGINES = "0 of 3 engines of policy serve, 3 not placed (1 GPUs each, 0 are free)"


class Stand:
    """A standstill with a clock to set, and what it says."""

    def __init__(self, *missing: str) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.it = Standstill(lambda: missing, self.said.append, clock=lambda: self.now)

    def after(self, seconds: float, snapshot: Snapshot | None = None) -> int:
        """Let time pass; returns how often it has spoken by then."""
        self.now += seconds
        if snapshot is not None:
            self.it.on_progress(snapshot)
        self.it.check()
        return len(self.said)


def test_it_speaks_after_a_minute_and_again_at_growing_intervals() -> None:
    stand = Stand(ENGINES)
    spoken = [stand.after(10, START) for _ in range(100)]
    assert [10 * spoken.index(count) for count in (1, 2, 3, 4)] == [60, 120, 240, 480]
    assert stand.said[0] == (
        f"iteration 0 rollouts: 4,758 of 6,000 problems, no progress for 1:00: {ENGINES}"
    )


@pytest.mark.parametrize(
    "change",
    [{"done": 4759}, {"counts": {"chains": 1}}, {"details": {"pool/p/tokens_per_second": 5.0}}],
)
def test_progress_of_any_kind_is_no_standstill(change: dict[str, object]) -> None:
    stand = Stand(ENGINES)
    stand.after(0, START)
    assert stand.after(59, replace(START, **change)) == 0  # type: ignore[arg-type]
    assert stand.after(59) == 0
    assert stand.after(2) == 1


def test_a_phase_that_ended_waits_for_nothing() -> None:
    stand = Stand(ENGINES)
    stand.after(0, START)
    assert stand.after(1, replace(START, state=PhaseState.FINISHED)) == 0
    assert stand.after(100) == 0


def test_of_two_phases_that_run_at_once_the_one_that_stands_still_is_told() -> None:
    stand = Stand("a group of workers not placed (2 x 1 GPU)")
    training = Snapshot(name="policy", unit="steps", total=9, iteration=0)
    stand.after(0, training)
    for done in range(9):
        stand.after(10, replace(START, iteration=1, done=done))
    stand.after(1, replace(START, iteration=1, state=PhaseState.FINISHED))
    (told,) = stand.said
    assert told.startswith("iteration 0 policy: 0 of 9 steps, no progress for 1:00: a group of")


def test_problems_that_take_long_are_told_and_steps_of_training_are_not() -> None:
    stand = Stand()
    held = {"held/0/Diversity": 9, "held/1/SelfGeneration": 96, "held/1/Diversity": 3}
    stand.after(0, replace(START, details=held))
    assert stand.after(60) == 1
    assert stand.said[0].endswith("in hand: SelfGeneration 96, Diversity 3")
    assert held_by_stage(replace(START, details={})) == {}
    training = Stand()
    training.after(0, replace(START, unit="steps"))
    assert training.after(600) == 0
