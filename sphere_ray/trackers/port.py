"""What a tracker is asked to keep. One small class a library implements it; any call may fail."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The run as a tracker meets it.

    `directory` is the run directory, `settings` are plain JSON data without secrets. `run_id` is
    what `open` returned in an earlier session, None in the first.
    """

    name: str
    directory: str
    settings: Mapping[str, Any]
    run_id: str | None


class Tracker(ABC):
    """A tracker library. All calls come from one thread, `open` first and `close` last."""

    @abstractmethod
    def open(self, run: Opening) -> str:
        """Begin a run, or continue that of `run.run_id`; returns the id to continue it by."""

    @abstractmethod
    def log(self, group: str, x: int, values: Mapping[str, float]) -> None:
        """Keep `values` under `group/name`, at place `x` of the group's axis."""

    @abstractmethod
    def text(self, name: str, text: str) -> None:
        """Keep a text (markdown), in the place of an earlier one of the same name."""

    @abstractmethod
    def file(self, path: str) -> None:
        """Keep a copy of a local file, in the place of an earlier one of the same name."""

    @abstractmethod
    def close(self, *, ok: bool) -> None:
        """End the session; `ok` is False where an error ended the run."""
