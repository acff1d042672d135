"""Training a reward model from a finished or running run, outside of it."""

from collections.abc import Sequence

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.config.base import dump
from sphere_ray.config.loading import settings_of
from sphere_ray.config.models import PoolSettings
from sphere_ray.errors import RunDirectoryError
from sphere_ray.pools.roles import base_model, policy_alone
from sphere_ray.reporting.reward_summary import TrainedRewardSummary
from sphere_ray.rollout.audits import load_audit
from sphere_ray.runs.directory import CONFIG, Run, WritableRun
from sphere_ray.runs.session import Session
from sphere_ray.runs.step import Executor, Made
from sphere_ray.runs.steps.reward_model import Recorded, RewardModelStep, handover

TRAINED_INPUT = "trained"
"""The input of rollouts that a trained reward model scored."""


def train_prm(
    run_dir: str, output: str | None, overrides: Sequence[str]
) -> tuple[str | None, TrainedRewardSummary]:
    """Train on all committed rollouts of a run; returns the model's directory and its figures.

    The settings are those of the run, changed by `overrides`; `engines.scorer.trained` may be new.
    Work is kept in `output` (default: RUN-prm), so the same call continues.

    Raises:
        SphereError: one sentence for the user; see `sphere_ray.errors`.
    """
    source = Run.open(run_dir)
    target = storage.resolve(output) if output else f"{source.path}-prm"
    settings = settings_of_run(source, target, overrides, train=True)
    trained = settings.engines.scorer.trained
    assert trained is not None
    step = RewardModelStep(
        settings=settings,
        trained=trained,
        recorded=tuple(recorded_rollouts(source)),
        base=base_model(settings.engines),
        audit=load_audit(settings.method.pairs.audit),
    )
    with (
        WritableRun.create(target, settings) as run,
        Session(run=run, needs=_without_engines(settings)) as session,
    ):
        made = Executor(session).make(step)
        session.finish_training(0)
    assert made.finished is not None
    model = made.finished.model
    return (model.path if model else None), handover(made.path, trained.schedule)


def settings_of_run(
    source: Run, target: str, overrides: Sequence[str], *, train: bool = False
) -> RunSettings:
    """The settings of a run, for work in another directory.

    To `train`, a run without a trained reward model gets default settings for one.

    Raises:
        ConfigError: an override, or the run's config.json, cannot be used.
    """
    document, file = source.document | {"run_dir": target}, source.file(CONFIG)
    document |= {"schedule": "sequential"}  # one thing after the other is done there
    if train:
        engines = dump(settings_of(document, file))["engines"]
        if not engines["scorer"].get("trained"):
            engines["scorer"]["trained"] = {"pool": engines["policy_pool"]}
        document["engines"] = engines
    return settings_of(document, file, overrides)


def recorded_rollouts(source: Run) -> list[Recorded]:
    """Every committed rollout of a run, in order.

    Raises:
        RunDirectoryError: there is none.
    """
    found = [
        Recorded(
            rollouts=Made(name=step.name, path=step.path, finished=step),
            trained=TRAINED_INPUT in step.manifest.inputs,
        )
        for step in source.steps
        if step.kind == "rollouts"
    ]
    if not found:
        raise RunDirectoryError(f"{source.path} has no finished rollouts; run it first")
    return found


def _without_engines(settings: RunSettings) -> RunSettings:
    """No engine starts: the cluster need not have room for a policy either."""
    pool = PoolSettings(gpus=0, kv_cache_gib=1)
    engines = policy_alone(settings.engines).model_copy(update={"policy_pool": pool})
    return settings.model_copy(update={"engines": engines})
