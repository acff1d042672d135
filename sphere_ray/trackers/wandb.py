"""Weights & Biases; command line, environment, code and packages are not recorded."""

import os
import uuid
from collections.abc import Mapping

import wandb

from sphere_ray.config.trackers import WandbSettings
from sphere_ray.trackers.port import Opening, Tracker

_INIT_S = 30.0
"""How long W&B may take to begin; a process that ends earlier waits for it."""
_FINISH_S = 10.0
"""How long the end of a run waits for an upload; less than a channel does."""


class WandbTracker(Tracker):
    """A run of a project; a later session continues it (offline: when both are synchronised)."""

    def __init__(self, settings: WandbSettings) -> None:
        """Nothing is asked of the server before `open`."""
        self._settings = settings
        self._groups = set[str]()

    def open(self, run: Opening) -> str:
        """See `Tracker.open`.

        Raises:
            RuntimeError: W&B has no key. (It would ask for one on the terminal.)
        """
        chosen = self._settings
        if not chosen.offline and not wandb.login(prompt=False, verify=False):
            raise RuntimeError(
                "W&B has no API key; run `wandb login`, set WANDB_API_KEY, or set offline: true"
            )
        self._run = wandb.init(
            project=chosen.project,
            entity=chosen.entity,
            mode="offline" if chosen.offline else "online",
            id=run.run_id or uuid.uuid4().hex[:8],
            name=run.name,
            config=dict(run.settings),
            resume="allow",
            dir=run.directory,
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                init_timeout=_INIT_S,
                finish_timeout=_FINISH_S,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        return str(self._run.id)

    def log(self, group: str, x: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`; the axis is `group/x`, because W&B's own only grows."""
        axis = f"{group}/x"
        if group not in self._groups:
            self._groups.add(group)
            self._run.define_metric(f"{group}/*", step_metric=axis)
        self._run.log({axis: x, **{f"{group}/{name}": value for name, value in values.items()}})

    def text(self, name: str, text: str) -> None:
        """See `Tracker.text`."""
        self._run.summary[name] = text

    def file(self, path: str) -> None:
        """See `Tracker.file`."""
        name = os.path.basename(path)
        artifact = wandb.Artifact(f"{self._run.id}-{name}", type="report")
        artifact.add_file(path, name)
        self._run.log_artifact(artifact)

    def close(self, *, ok: bool) -> None:
        """See `Tracker.close`."""
        self._run.finish(exit_code=0 if ok else 1)
