"""A run directory: anyone may read it (`Run`), one driver at a time writes it (`WritableRun`).

The layout is that of DESIGN section 8. This file knows how steps lie on disk, not what they do.
"""

import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeVar, cast

import pyarrow as pa
from filelock import FileLock
from pydantic import ValidationError

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.config.base import dump
from sphere_ray.errors import RunDirectoryError
from sphere_ray.records import ModelRef
from sphere_ray.reporting.summary import RunSummary
from sphere_ray.runs.manifest import Manifest
from sphere_ray.schema import from_table

CONFIG, SUMMARY, EVENTS, CURRENT = "config.json", "summary.json", "events.jsonl", "steps.json"
REPORT = "report.html"
MANIFEST, BEGUN, PARTS = "manifest.json", "begun.json", "_parts"
MODEL = "model"
CANDIDATES = {"trained": "policy", "halfway": "halfway", "half_rate": "half_rate"}
"""The candidates of an iteration, and the kind of the step that makes each."""
_LOCK, DRIVER = ".lock", ".driver"
_NAME = re.compile(r"(?:iter-(?P<iteration>\d{3,})/)?(?P<kind>[a-z_]+)(?:/(?P<label>.+))?")

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedStep:
    """A committed step: its directory and its manifest. Nothing in the directory changes any more.

    `name` is `problems`, `iter-000/rollouts`, `evaluation/base`, `test/iter-000` and so on; its
    parts are `iteration` (None outside of one), `kind` and `label` (empty without one).
    """

    path: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """The step's name; variants made from other settings share it."""
        return self.manifest.step

    @property
    def kind(self) -> str:
        """What the step makes: problems, rollouts, pairs, reference, policy, reward, ..."""
        return self._parts["kind"] or ""

    @property
    def label(self) -> str:
        """What tells steps of one kind apart, for example the model that was evaluated."""
        return self._parts["label"] or ""

    @property
    def iteration(self) -> int | None:
        """The iteration the step belongs to; None for steps of the whole run."""
        number = self._parts["iteration"]
        return None if number is None else int(number)

    @property
    def model(self) -> ModelRef | None:
        """The model that the step made, if it made one."""
        path = f"{self.path}/{MODEL}"
        if not storage.exists(path):
            return None
        iteration = 0 if self.iteration is None else self.iteration + 1
        return ModelRef(path=path, iteration=iteration, fingerprint=self.manifest.output)

    def tables(
        self, columns: Sequence[str] | None = None, *, below: str = ""
    ) -> Iterator[pa.Table]:
        """Stream the step's data, one parquet row group at a time.

        `columns` names (nested) columns to read, default all. `below` is a sub-directory: `train`,
        `validation` or `test` of problems, `dropped` of pairs.
        """
        return storage.tables(f"{self.path}/{below}".rstrip("/"), columns)

    def rows(self, record: type[Record], *, below: str = "") -> Iterator[Record]:
        """Stream the step's data as records, for example `step.rows(Rollout)`."""
        for table in self.tables(below=below):
            yield from from_table(table, record)

    @property
    def _parts(self) -> dict[str, str | None]:
        match = _NAME.fullmatch(self.name)
        return match.groupdict() if match else {"kind": self.name, "label": "", "iteration": None}


class Run:
    """A run directory, opened for reading: without a lock, without Ray, also while the run goes on.

    A copy of the directory on another machine serves as well.
    """

    def __init__(self, path: str) -> None:
        """Use `Run.open`."""
        self.path = path

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the run in a directory or at an fsspec URI.

        Raises:
            RunDirectoryError: there is no run.
        """
        run = cls(storage.resolve(str(path)))
        if not storage.exists(run.file(CONFIG)):
            raise RunDirectoryError(
                f"{run.path} is not a run directory (it has no {CONFIG}); give the run_dir of a run"
            )
        return run

    def file(self, name: str) -> str:
        """The full path of a file or directory of this run."""
        return f"{self.path}/{name}"

    @property
    def document(self) -> dict[str, Any]:
        """The settings of the latest session as config.json has them.

        Raises:
            RunDirectoryError: config.json is damaged.
        """
        document = storage.read_json(self.file(CONFIG))
        if not isinstance(document, dict):
            raise RunDirectoryError(
                f"{self.file(CONFIG)} is damaged: it is no mapping; choose another run_dir"
            )
        return document

    @cached_property
    def settings(self) -> RunSettings:
        """The settings of the latest session.

        Raises:
            RunDirectoryError: another version of sphere wrote them.
        """
        try:
            return RunSettings.model_validate(self.document)
        except ValidationError as error:
            raise RunDirectoryError(
                f"{self.file(CONFIG)} was not written by this version of sphere; use the version "
                "that wrote it, or run again in another run_dir"
            ) from error

    @property
    def summary(self) -> RunSummary | None:
        """The content of summary.json; None before the run has finished once."""
        return cast("RunSummary | None", storage.read_json(self.file(SUMMARY)))

    @property
    def variants(self) -> list[FinishedStep]:
        """Every finished step, those made from earlier settings included, by directory name."""
        return list(_finished_below(self.path, levels=3))

    @property
    def steps(self) -> list[FinishedStep]:
        """The finished steps of the latest settings, in the order in which they were needed."""
        return self.finished(storage.read_json(self.file(CURRENT)) or [])

    def finished(self, directories: Iterable[str]) -> list[FinishedStep]:
        """The finished steps in these directories of the run, in this order."""
        by_path = {step.path: step for step in self.variants}
        return [by_path[path] for name in directories if (path := self.file(name)) in by_path]

    def step(self, kind: str, iteration: int | None = None, label: str = "") -> FinishedStep | None:
        """The finished step of this kind, iteration and label; None if there is none (yet)."""
        return find_step(self.steps, kind, iteration, label)

    @property
    def iterations(self) -> list[int]:
        """Numbers of the iterations that have a finished step, in order."""
        return sorted({step.iteration for step in self.steps if step.iteration is not None})

    @property
    def models(self) -> list[ModelRef]:
        """Every policy the run trained, in order, promoted or not."""
        made = (step.model for step in self.steps if step.kind in CANDIDATES.values())
        return [model for model in made if model]

    def events(self) -> Iterator[dict[str, Any]]:
        """What happened and when: the lines of events.jsonl."""
        for line in (storage.read_text(self.file(EVENTS)) or "").splitlines():
            with suppress(ValueError):  # the last line of a driver that was killed while it wrote
                yield json.loads(line)


class WritableRun(Run):
    """A run directory that this driver writes; a context manager that lets the next driver in."""

    def __init__(self, path: str, settings: RunSettings) -> None:
        """Use `WritableRun.create`."""
        super().__init__(path)
        self.settings = settings
        self._lock: FileLock | None = None
        self._noting = threading.Lock()

    @classmethod
    def create(cls, run_dir: str, settings: RunSettings) -> "WritableRun":
        """Create a run directory, or continue one; config.json then holds `settings`.

        Raises:
            RunDirectoryError: it is in use, cannot be used (`require_usable`) or written, or an
                earlier version of sphere wrote it.
        """
        path = storage.resolve(run_dir)
        run = cls(path, settings)
        try:
            require_usable(path, settings)
            storage.make_directory(path)
            if storage.is_local(path):
                run._lock = storage.lock(path, _LOCK, DRIVER)
            _ = run.variants  # an earlier version's are refused before anything is written
            storage.write_json(dump(settings), run.file(CONFIG))
        except RunDirectoryError:
            run.close()
            raise
        except OSError as error:
            run.close()
            raise RunDirectoryError(
                f"run_dir {path} cannot be written: {error.strerror or error}; make room, correct "
                "the rights or the mount, or choose another run_dir"
            ) from None
        return run

    def append_event(self, line: str) -> None:
        """Add one line to events.jsonl."""
        storage.append_line(line, self.file(EVENTS))

    def note_current(self, directories: Sequence[str], *, all_of_them: bool = False) -> None:
        """Note the step directories that the present settings lead to.

        While these are not yet `all_of_them`, those that an earlier session added stay noted. Steps
        that are made at the same time may call it at the same time.
        """
        with self._noting:
            names = [directory.removeprefix(f"{self.path}/") for directory in directories]
            known = storage.read_json(self.file(CURRENT)) or []
            if all_of_them or not set(names) <= set(known):
                storage.write_json(names, self.file(CURRENT))

    def close(self) -> None:
        """Let another driver in."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        """Return the run itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the run."""
        self.close()


def find_step(
    steps: Iterable[FinishedStep], kind: str, iteration: int | None = None, label: str = ""
) -> FinishedStep | None:
    """The first of the steps that is of this kind, iteration and label."""
    wanted = (kind, iteration, label)
    return next((s for s in steps if (s.kind, s.iteration, s.label) == wanted), None)


def _finished_below(directory: str, levels: int) -> Iterator[FinishedStep]:
    """The finished steps in a directory and below it."""
    for name in storage.children(directory):
        if "." in name or name.startswith("_"):  # a file, or not data
            continue
        path = f"{directory}/{name}"
        value = storage.read_json(f"{path}/{MANIFEST}")
        if value is not None:
            manifest = Manifest.from_json(value, f"{path}/{MANIFEST}")
            yield FinishedStep(path=path, manifest=manifest)
        elif levels > 1:
            yield from _finished_below(path, levels - 1)


def require_usable(path: str, settings: RunSettings) -> None:
    """Check that a run with these settings could be kept in the resolved directory `path`.

    Raises:
        RunDirectoryError: it holds something else, or it is a URI and engines are not simulated.
    """
    if settings.engines.backend != "simulated" and not storage.is_local(path):
        raise RunDirectoryError(
            f"run_dir {path} is no path: models are trained into it and served from it; mount that "
            "storage on every node and give the path of the mount"
        )
    ours = {_LOCK, DRIVER}
    names = [n for n in storage.children(path) if n not in ours and not storage.is_temporary(n)]
    if (names and CONFIG not in names) or os.path.isfile(path):
        raise RunDirectoryError(
            f"run_dir {path} is neither empty nor a run directory (it has no {CONFIG}); "
            "choose another run_dir"
        )
