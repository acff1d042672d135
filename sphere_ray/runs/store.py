"""The run directory: who may use it, what is committed in it, and how phases are committed.

Knows the names of phases and what identifies them, not what they do. Layout: DESIGN section 8.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from sphere_ray.config import RunSettings, differences, dump, identity, phase_identity
from sphere_ray.config.identity import identity_of_dump
from sphere_ray.errors import RunDirectoryError
from sphere_ray.records import PhaseReport
from sphere_ray.runs import storage
from sphere_ray.runs.lock import LOCK_NAME, acquire
from sphere_ray.runs.manifest import Manifest, fingerprint, make_manifest

CONFIG = "config.json"
EVENTS = "events.jsonl"
MANIFEST = "manifest.json"
BEGUN = "begun.json"
SPENT = "spent.json"
_SHOWN_DIFFERENCES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseDir:
    """The directory of one phase; complete once its manifest is there.

    `fingerprint` hashes the phase's name, the configuration it reads and `upstream`.
    """

    name: str
    path: str
    identity: Mapping[str, Any]
    upstream: Mapping[str, Any]
    fingerprint: str

    def committed(self) -> Manifest | None:
        """The manifest of the finished phase, None if it has to run (again).

        Raises:
            RunDirectoryError: it was made from something else, or is damaged.
        """
        path = f"{self.path}/{MANIFEST}"
        value = storage.read_json(path)
        if value is None:
            return None
        manifest = Manifest.from_json(value, path)
        if manifest.fingerprint != self.fingerprint:
            raise self._made_from_something_else(manifest.identity, manifest.upstream)
        return manifest

    def begin(self, *, resumable: bool = False) -> None:
        """Make room for output: what an interrupted attempt left is removed.

        A resumable phase keeps it, provided that it was begun from the same inputs.

        Raises:
            RunDirectoryError: the phase is committed, or was begun from something else.
        """
        if self.committed() is not None:
            raise RunDirectoryError(f"{self.path} is committed already; it cannot begin again")
        mark = storage.read_json(f"{self.path}/{BEGUN}") if resumable else None
        if mark is None:
            storage.remove(self.path)
        elif mark.get("fingerprint") != self.fingerprint:
            raise self._made_from_something_else(mark["identity"], mark["upstream"])
        storage.make_directory(self.path)
        if resumable and mark is None:
            inputs = {"identity": self.identity, "upstream": self.upstream}
            storage.write_json({"fingerprint": self.fingerprint, **inputs}, f"{self.path}/{BEGUN}")

    def commit(self, report: PhaseReport) -> Manifest:
        """Declare the output complete; the manifest is written last, in one step.

        Raises:
            ValueError: the report is about another phase.
        """
        if (report.phase, report.fingerprint) != (self.name, self.fingerprint):
            raise ValueError(f"the report of {report.phase} does not belong to {self.path}")
        manifest = make_manifest(report, identity=self.identity, upstream=self.upstream)
        storage.write_json(manifest.to_json(), f"{self.path}/{MANIFEST}")
        for mark in (BEGUN, SPENT):
            storage.remove(f"{self.path}/{mark}")
        return manifest

    def spent(self) -> float:
        """Seconds that earlier sessions worked on the unfinished phase, as far as they noted it."""
        return float((storage.read_json(f"{self.path}/{SPENT}") or {}).get("seconds", 0.0))

    def note_spent(self, seconds: float) -> None:
        """Note the seconds of this and earlier sessions, in case this one ends early."""
        storage.write_json({"seconds": round(seconds, 3)}, f"{self.path}/{SPENT}")

    def _made_from_something_else(
        self, config: Mapping[str, Any], upstream: Mapping[str, Any]
    ) -> RunDirectoryError:
        changed = [*differences(config, self.identity), *differences(upstream, self.upstream)]
        return RunDirectoryError(
            f"{self.path} was made from something else: {_listed(changed)}; "
            "choose another run_dir, or remove this directory to make it again"
        )


@dataclass(kw_only=True)
class RunStore:
    """An open run directory; use it as a context manager, or close it.

    `path` is absolute, or a URI on a remote filesystem.
    """

    path: str
    settings: RunSettings
    _lock: int | None = None

    @classmethod
    def open(cls, run_dir: str, settings: RunSettings) -> Self:
        """Create a run directory, or reopen one that belongs to the same configuration.

        While no phase is committed or half done another configuration may take it over.

        Raises:
            RunDirectoryError: it belongs to another configuration, is in use, is damaged, is
                not a run directory, or cannot be written.
        """
        path = storage.resolve(run_dir)
        try:
            _refuse_foreign(path)
            storage.make_directory(path)
            store = cls(path=path, settings=settings)
            if storage.is_local(path):
                store._lock = acquire(path)
        except OSError as error:
            raise RunDirectoryError(
                f"run_dir {path} cannot be written: {error.strerror or error}; choose another"
            ) from None
        try:
            store._adopt_configuration()
        except BaseException:
            store.close()
            raise
        return store

    def phase(
        self, iteration: int | None, name: str, upstream: Mapping[str, Any] | None = None
    ) -> PhaseDir:
        """The directory of a phase, in an iteration or (None) at the top.

        `name` is problems, rollouts, pairs, reference, policy, evaluation or test, perhaps with a
        label: `test/base`. `upstream` names everything besides the configuration that decides
        the output: fingerprints of earlier phases and of models, a changed learning rate.
        """
        own = phase_identity(self.settings, name.partition("/")[0])
        upstream = dict(upstream or {})
        place = name if iteration is None else f"iter-{iteration:03}/{name}"
        return PhaseDir(
            name=name,
            path=self.path_of(place),
            identity=own,
            upstream=upstream,
            fingerprint=fingerprint(place, own, upstream),
        )

    def path_of(self, name: str) -> str:
        """The full path of a file or directory of this run."""
        return f"{self.path}/{name}"

    def append_event(self, line: str) -> None:
        """Add one line to events.jsonl."""
        storage.append_line(line, self.path_of(EVENTS))

    def close(self) -> None:
        """Let another driver in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store."""
        self.close()

    def _adopt_configuration(self) -> None:
        path = self.path_of(CONFIG)
        known = storage.read_json(path)
        here = dump(self.settings)
        if known is not None:
            if not isinstance(known, dict):
                raise RunDirectoryError(
                    f"{path} is damaged: it is no mapping; choose another run_dir"
                )
            changed = differences(identity_of_dump(known), identity(self.settings))
            if changed and self._has_work():
                raise RunDirectoryError(
                    f"run_dir {self.path} belongs to another configuration: {_listed(changed)}; "
                    "choose another run_dir, or put these values back"
                )
        if known != here:
            storage.write_json(here, path)

    def _has_work(self) -> bool:
        """Whether a phase is committed, or half done in a way that can be continued."""
        return bool({MANIFEST, BEGUN} & storage.file_names(self.path))


def _refuse_foreign(path: str) -> None:
    names = [n for n in storage.listing(path) if n != LOCK_NAME and not storage.is_temporary(n)]
    if names and CONFIG not in names:
        raise RunDirectoryError(
            f"run_dir {path} is neither empty nor a run directory (it has no {CONFIG}); "
            "choose another run_dir"
        )


def _listed(changed: list[str]) -> str:
    shown = ", ".join(changed[:_SHOWN_DIFFERENCES])
    others = len(changed) - _SHOWN_DIFFERENCES
    return f"{shown} and {others} more" if others > 0 else shown
