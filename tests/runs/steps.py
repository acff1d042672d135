"""Steps that write a line, and sessions that only keep notes: what the executor's tests need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.records import ModelRef
from sphere_ray.runs.directory import WritableRun
from sphere_ray.runs.step import Executor, Made, Result, Step, Work

SPLITS = ("train", "validation", "test")


def settings(**changes: Any) -> RunSettings:
    """A valid configuration."""
    return RunSettings.model_validate(
        {
            "name": "try",
            "run_dir": "unused",
            "problems": {split: {"source": f"file:{split}.jsonl"} for split in SPLITS},
            "engines": {
                "backend": "simulated",
                "policy": {"path": "tiny:llama"},
                "policy_pool": {"kv_cache_gib": 1},
            },
        }
        | changes
    )


@dataclass(frozen=True, kw_only=True)
class Line(Step):
    """Writes its settings to a file; `ran` hears of it, `ending` may raise."""

    kind: ClassVar[str] = "line"

    content: dict[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    ran: Callable[[Work], object] = lambda work: None

    def identity(self) -> dict[str, Any]:
        return self.content

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        return self.given

    def run(self, work: Work) -> Result:
        self.ran(work)
        storage.append_line(str(self.content), f"{work.path}/line.txt")
        return Result(rows_in=1, rows_out=1, dropped={"duplicate": 2})


@dataclass(frozen=True, kw_only=True)
class Resumed(Line):
    """The same, continued where an earlier attempt ended."""

    resumable: ClassVar[bool] = True


def executor(run: WritableRun, origin: Any = None) -> Executor:
    """An executor whose session shows and records nothing."""
    events: list[Any] = []
    session: Any = SimpleNamespace(
        run=run, record=lambda *_, **fields: events.append(fields), log=lambda text: None
    )
    return Executor(session, origin)


def lines(made: Made) -> list[str]:
    """What a `Line` wrote."""
    return (storage.read_text(f"{made.path}/line.txt") or "").splitlines()


def opened(directory: str | Path, **changes: Any) -> WritableRun:
    """A run directory to write in."""
    return WritableRun.create(str(directory), settings(**changes))
