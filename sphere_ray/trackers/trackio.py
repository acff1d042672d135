"""trackio: a local database, or a space of the Hugging Face hub."""

import uuid
from collections.abc import Mapping

import trackio

from sphere_ray.config.trackers import TrackioSettings
from sphere_ray.trackers.port import Opening, Tracker


class TrackioTracker(Tracker):
    """A run of a project; trackio continues a run by its name, so the name is the id."""

    def __init__(self, settings: TrackioSettings) -> None:
        """Nothing is written before `open`."""
        self._settings = settings

    def open(self, run: Opening) -> str:
        """See `Tracker.open`."""
        name = run.run_id or f"{run.name}-{uuid.uuid4().hex[:6]}"
        self._run = trackio.init(
            project=self._settings.project,
            name=name,
            space_id=self._settings.space,
            config=dict(run.settings),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        return name

    def log(self, group: str, x: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._run.log({f"{group}/{name}": value for name, value in values.items()}, step=x)

    def text(self, name: str, text: str) -> None:
        """See `Tracker.text`."""
        self._run.log({name: trackio.Markdown(text)})

    def file(self, path: str) -> None:
        """See `Tracker.file`."""
        self._run.log_artifact(path, type="report")

    def close(self, *, ok: bool) -> None:
        """See `Tracker.close`."""
        del ok
        self._run.finish()
