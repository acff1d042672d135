"""Where a run's numbers go besides its own directory; nothing of it decides a result.

`sphere run` feeds trackers, and so does each run of `sphere proof`; other commands do not.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sphere_ray.config.base import Settings

PROJECT = "sphere_ray"


class TensorBoardSettings(Settings):
    """Event files in `directory`, by default `tensorboard/` in the run directory."""

    kind: Literal["tensorboard"] = "tensorboard"
    directory: str | None = None


class MlflowSettings(Settings):
    """A run of an MLflow experiment.

    `uri` is by default MLFLOW_TRACKING_URI, and where that is not set, `mlflow.db` in the run
    directory. A user and a password belong into MLflow's own variables of the environment.
    """

    kind: Literal["mlflow"] = "mlflow"
    uri: str | None = None
    experiment: str = PROJECT


class WandbSettings(Settings):
    """A run of a Weights & Biases project.

    With `offline` it is written to `wandb/` in the run directory, for `wandb sync`; otherwise W&B
    looks for the key where it always does.
    """

    kind: Literal["wandb"] = "wandb"
    project: str = PROJECT
    entity: str | None = None
    offline: bool = False


class TrackioSettings(Settings):
    """A run of a trackio project: in trackio's local database, or in a `space` of the hub."""

    kind: Literal["trackio"] = "trackio"
    project: str = PROJECT
    space: str | None = None


def _group(value: Any) -> Any:
    """A tracker may be given by its name alone."""
    return {"kind": value} if isinstance(value, str) else value


TrackerSettings = Annotated[
    Annotated[
        TensorBoardSettings | MlflowSettings | WandbSettings | TrackioSettings,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_group),
]


def _each_once(trackers: tuple[TrackerSettings, ...]) -> tuple[TrackerSettings, ...]:
    kinds = [tracker.kind for tracker in trackers]
    if repeated := next((kind for kind in kinds if kinds.count(kind) > 1), None):
        raise ValueError(f"{repeated} is there twice; keep one")
    return trackers


Trackers = Annotated[tuple[TrackerSettings, ...], AfterValidator(_each_once)]
"""At most one of each kind."""
