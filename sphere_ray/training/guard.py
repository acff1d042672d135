"""Stops training that has collapsed, from the metrics alone, so that every worker decides alike."""

import math
from collections.abc import Sequence

from sphere_ray.config.training import GuardSettings
from sphere_ray.errors import CollapseError
from sphere_ray.training.messages import StepMetrics


def check_collapse(history: Sequence[StepMetrics], settings: GuardSettings) -> None:
    """Look at the last `window` steps, every `window` steps and at the end; nan stops at once.

    Raises:
        CollapseError: the chosen side fell too far below the reference, or the loss diverged.
    """
    last = history[-1]
    if not math.isfinite(last.loss) or not math.isfinite(last.grad_norm):
        raise CollapseError(
            f"training diverged at step {last.step}: loss {last.loss}, gradient norm "
            f"{last.grad_norm}; lower training.learning_rate ({last.learning_rate:.3g} there)"
        )
    if len(history) % settings.window and last.step < last.steps:
        return
    window = history[-settings.window :]
    shift = sum(step.chosen_shift for step in window) / len(window)
    if shift < -settings.max_chosen_drop:
        raise CollapseError(
            f"training collapsed at step {last.step}: the chosen answers fell {-shift:.2f} nats "
            f"per token below the reference (training.guard.max_chosen_drop is "
            f"{settings.max_chosen_drop}); lower training.learning_rate or raise "
            "training.loss.nll_weight"
        )
