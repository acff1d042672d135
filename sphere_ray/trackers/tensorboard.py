"""TensorBoard event files."""

import json
import os
import uuid
from collections.abc import Mapping

from tensorboardX import SummaryWriter

from sphere_ray.config.trackers import TensorBoardSettings
from sphere_ray.trackers.port import Opening, Tracker


class TensorBoardTracker(Tracker):
    """Event files in one directory; a later session adds a file."""

    def __init__(self, settings: TensorBoardSettings) -> None:
        """Nothing is written before `open`."""
        self._settings = settings

    def open(self, run: Opening) -> str:
        """See `Tracker.open`; the id is the directory."""
        directory = self._settings.directory or f"{run.directory}/tensorboard"
        # Files are named by the second, and that of a session just before must not be overwritten.
        suffix = f".{uuid.uuid4().hex[:8]}"
        self._writer = SummaryWriter(directory, flush_secs=10, filename_suffix=suffix)
        self.text("settings", f"```\n{json.dumps(run.settings, indent=2)}\n```")
        return directory

    def log(self, group: str, x: int, values: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, x)

    def text(self, name: str, text: str) -> None:
        """See `Tracker.text`."""
        self._writer.add_text(name, text, 0)

    def file(self, path: str) -> None:
        """Name the file: TensorBoard keeps none."""
        self.text(f"files/{os.path.basename(path)}", path)

    def close(self, *, ok: bool) -> None:
        """See `Tracker.close`."""
        del ok
        self._writer.close()
