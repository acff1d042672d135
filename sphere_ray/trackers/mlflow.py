"""MLflow, through its client: nothing of the process or the command line is recorded."""

import logging
import os
import re
import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from sphere_ray.config.base import leaves
from sphere_ray.config.trackers import MlflowSettings
from sphere_ray.trackers.port import Opening, Tracker

_FORBIDDEN = re.compile(r"[^\w\-. :/]")
_BATCH = 100
"""Parameters that MLflow takes at once."""
_MAX_CHARS = 6000
"""Length of a parameter that MLflow takes."""


class MlflowTracker(Tracker):
    """A run of an experiment; a later session continues it."""

    def __init__(self, settings: MlflowSettings) -> None:
        """Nothing is asked of the server before `open`."""
        self._settings = settings

    def open(self, run: Opening) -> str:
        """See `Tracker.open`."""
        for name in ("alembic", "mlflow.store.db.utils"):  # they tell of each table they make
            logging.getLogger(name).setLevel(logging.WARNING)
        uri = self._settings.uri or os.environ.get("MLFLOW_TRACKING_URI")
        artifacts = None if uri else f"{run.directory}/mlartifacts"
        self._client = MlflowClient(uri or f"sqlite:///{run.directory}/mlflow.db")
        self._run_id = self._continued(run.run_id) or self._created(run, artifacts)
        self._client.log_dict(self._run_id, dict(run.settings), "config.json")
        return self._run_id

    def log(self, group: str, x: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        now = int(time.time() * 1000)
        metrics = [
            Metric(_FORBIDDEN.sub("_", f"{group}/{name}"), value, now, x)
            for name, value in values.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def text(self, name: str, text: str) -> None:
        """See `Tracker.text`."""
        self._client.log_text(self._run_id, text, f"{name}.md")

    def file(self, path: str) -> None:
        """See `Tracker.file`."""
        self._client.log_artifact(self._run_id, path)

    def close(self, *, ok: bool) -> None:
        """See `Tracker.close`."""
        self._client.set_terminated(self._run_id, "FINISHED" if ok else "FAILED")

    def _continued(self, run_id: str | None) -> str | None:
        """The id of an earlier session, if the server still knows it."""
        if run_id is None:
            return None
        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run_id

    def _created(self, run: Opening, artifacts: str | None) -> str:
        found = self._client.get_experiment_by_name(self._settings.experiment)
        experiment = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(self._settings.experiment, artifacts)
        )
        tags = {"run_dir": run.directory}
        made: str = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        params = [
            Param(_FORBIDDEN.sub("_", name), str(value)[:_MAX_CHARS])
            for name, value in leaves(run.settings)
        ]
        for first in range(0, len(params), _BATCH):
            self._client.log_batch(made, params=params[first : first + _BATCH])
        return made
