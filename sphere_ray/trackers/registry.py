"""Every kind of tracker: the one place where a new one is registered.

A library is imported when its tracker is first made, so that nobody needs one that is not chosen.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from sphere_ray.config.trackers import (
    MlflowSettings,
    TensorBoardSettings,
    TrackerSettings,
    TrackioSettings,
    WandbSettings,
)
from sphere_ray.errors import ConfigError
from sphere_ray.trackers.port import Tracker

PACKAGES: Mapping[str, str] = {
    "tensorboard": "tensorboardX",
    "mlflow": "mlflow",
    "wandb": "wandb",
    "trackio": "trackio",
}
"""The package behind each kind; `sphere-ray[KIND]` installs it."""


def require_installed(trackers: Sequence[TrackerSettings]) -> None:
    """Check that the libraries are there.

    Raises:
        ConfigError: one is not.
    """
    for kind in (tracker.kind for tracker in trackers):
        if find_spec(PACKAGES[kind]) is None:
            raise ConfigError(
                f"trackers: {kind} needs the package {PACKAGES[kind]}, which is not installed; "
                f"install sphere-ray[{kind}], or remove {kind} from trackers"
            )


def make(settings: TrackerSettings) -> Tracker:
    """Make the tracker that the settings describe."""
    match settings:
        case TensorBoardSettings():
            from sphere_ray.trackers.tensorboard import TensorBoardTracker

            return TensorBoardTracker(settings)
        case MlflowSettings():
            from sphere_ray.trackers.mlflow import MlflowTracker

            return MlflowTracker(settings)
        case WandbSettings():
            from sphere_ray.trackers.wandb import WandbTracker

            return WandbTracker(settings)
        case TrackioSettings():
            from sphere_ray.trackers.trackio import TrackioTracker

            return TrackioTracker(settings)
