"""Training a reward model from a finished or running run, outside of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sphere_ray.config import RunSettings
from sphere_ray.config.loading import settings_of
from sphere_ray.config.models import PoolSettings
from sphere_ray.errors import RunDirectoryError
from sphere_ray.reporting.reward_summary import TrainedRewardSummary
from sphere_ray.rollout.roles import base_model, policy_alone
from sphere_ray.runs import storage
from sphere_ray.runs.manifest import Manifest
from sphere_ray.runs.session import Session
from sphere_ray.runs.store import CONFIG, MANIFEST, RunStore
from sphere_ray.runs.trained_reward import Recorded, train_reward

TRAINED_SOURCE = "trained"
"""Upstream of a phase of rollouts that the trained model scored (`Roles.others`)."""


def train_prm(
    run_dir: str, output: str | None, overrides: Sequence[str]
) -> tuple[str | None, TrainedRewardSummary]:
    """Train on all committed rollouts of a run; returns the model's directory and its figures.

    The settings are those of the run, changed by `overrides`; `engines.scorer.trained` may be new.
    Work is kept in `output` (default: RUN-prm), so the same call continues.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    source = storage.resolve(run_dir)
    place = storage.resolve(output) if output else f"{source}-prm"
    settings = settings_of_run(source, place, overrides, train=True)
    trained = settings.engines.scorer.trained
    assert trained is not None
    recorded = recorded_rollouts(source)
    base = base_model(settings.engines)
    with (
        RunStore.open(place, settings) as store,
        Session(settings=_trainer_alone(settings), store=store) as session,
    ):
        made = train_reward(session, trained, recorded, base, None)
    return (made.model.path if made.model else None), made.summary


def _trainer_alone(settings: RunSettings) -> RunSettings:
    """No engine starts: the cluster need not have room for a policy either."""
    pool = PoolSettings(gpus=0, kv_cache_gib=1)
    engines = policy_alone(settings.engines).model_copy(update={"policy_pool": pool})
    return settings.model_copy(update={"engines": engines})


def settings_of_run(
    source: str, place: str, overrides: Sequence[str], *, train: bool = False
) -> RunSettings:
    """The settings of a run, at work in another place; to `train`, it gets a plain `trained`.

    Raises:
        RunDirectoryError: `source` is no run directory.
        ConfigError: an override cannot be used.
    """
    config = Path(source) / CONFIG
    if not config.is_file():
        raise RunDirectoryError(f"{source} is not a run directory: it has no {CONFIG}")
    document: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    document["run_dir"] = place
    scorer = document["engines"]["scorer"]
    if train and not scorer.get("trained"):
        scorer["trained"] = {"pool": document["engines"]["policy_pool"]}
    return settings_of(document, str(config), overrides)


def recorded_rollouts(source: str) -> list[Recorded]:
    """Every committed rollout of a run, in order.

    Raises:
        RunDirectoryError: there is none.
    """
    found = []
    for folder in sorted(Path(source).glob("iter-*/rollouts")):
        path = folder / MANIFEST
        value = storage.read_json(str(path))
        if value is not None:
            manifest = Manifest.from_json(value, str(path))
            found.append(
                Recorded(
                    path=str(folder),
                    fingerprint=manifest.fingerprint,
                    trained=TRAINED_SOURCE in manifest.upstream,
                )
            )
    if not found:
        raise RunDirectoryError(f"{source} has no finished rollouts; run it first")
    return found
