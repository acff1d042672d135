"""What a run does at once: pure, for steps take hours and their order must not depend on them.

Iteration t rolls out, and is learned from: pairs, training, evaluation, decision. Overlapped, it
rolls out while t - 1 is learned from, so its policy knows the decisions up to t - 2. What a
decision needs is waited for, hence a policy is one iteration behind at most, and the same
settings lead to the same steps in whatever time these take.
"""

from dataclasses import dataclass

from sphere_ray.config.run import Schedule


@dataclass(frozen=True, slots=True)
class Turn:
    """What is done at once; the next turn begins when all of it is done.

    `rolls_out` is an iteration or None. `learns` is the lesson or None: lesson 0 are the base
    model's answers, lesson t + 1 is what iteration t's rollouts teach.
    """

    rolls_out: int | None
    learns: int | None


def next_turn(
    schedule: Schedule, *, rolled: int, learned: int, iterations: int, ended: bool
) -> Turn | None:
    """The turn that follows `rolled` rollouts and `learned` lessons; None behind the last one.

    `ended` says that the decisions so far begin no further iteration. Rollouts that are there by
    then are learned from all the same, and a policy that they make better lets the run go on.
    """
    learns = learned if learned <= rolled else None
    at_once = schedule == "overlapped" or learns is None
    rolls_out = rolled if rolled < iterations and not ended and at_once else None
    return None if learns is None and rolls_out is None else Turn(rolls_out, learns)
