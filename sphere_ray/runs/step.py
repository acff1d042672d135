"""A step of a run, and the executor that makes it once: reuse, continue or make.

A step names the settings that decide its output (`identity`) and everything that enters it
(`inputs`); their hash finds the output again. Another setting makes another output beside it, and
nothing is overwritten.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar

from sphere_ray import storage
from sphere_ray.config.base import differences
from sphere_ray.interruption import together
from sphere_ray.provenance import fingerprint
from sphere_ray.records import ModelRef, PhaseReport, PoolUse, Writer
from sphere_ray.reporting.progress import PhaseTracker
from sphere_ray.reporting.stopwatch import SPENT, stopwatch
from sphere_ray.runs.directory import BEGUN, MANIFEST, FinishedStep, Run, WritableRun
from sphere_ray.runs.manifest import Manifest
from sphere_ray.runs.session import Session

ID_COLUMN = "problem_id"
_SHOWN_DIFFERENCES = 8


class State(StrEnum):
    """What an executor does about a step."""

    REUSE = "reuse"
    CONTINUE = "continue"
    MAKE = "make"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a step's `run` came to; the executor adds name, time and fingerprint.

    `output` is what later steps know it by, where that is not its own fingerprint: a hash of the
    model that it made, or of the problems.
    """

    rows_in: int
    rows_out: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0
    pools: tuple[PoolUse, ...] = ()
    writers: tuple[Writer, ...] = ()
    output: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A step's output as later steps name it.

    `finished` is None where the step is only planned: then nobody knows its `output` yet.
    """

    name: str
    path: str
    finished: FinishedStep | None

    @property
    def output(self) -> str | None:
        """The fingerprint under which this output enters later steps."""
        return None if self.finished is None else self.finished.manifest.output

    @property
    def report(self) -> PhaseReport:
        """What the step did.

        Raises:
            LookupError: it is only planned.
        """
        if self.finished is None:
            raise LookupError(f"{self.name} is not made yet")
        return self.finished.manifest.report


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a step's `run` is given: where its output belongs, and the open run."""

    path: str
    name: str
    iteration: int | None
    fingerprint: str
    session: Session

    def progress(
        self, total: int, unit: str, *, first: int = 0
    ) -> AbstractContextManager[PhaseTracker]:
        """Show progress while the context is open; `first` of `total` were done earlier."""
        return self.session.board.phase(
            self.name, total, unit, iteration=self.iteration, first=first
        )


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """One piece of work with an output of its own. Subclasses are in `runs/steps/`."""

    kind: ClassVar[str]
    resumable: ClassVar[bool] = False
    """Whether `run` continues what an interrupted attempt left in the directory."""
    leftovers: ClassVar[tuple[str, ...]] = ()
    """Names in the directory that nobody needs once the output is committed."""

    iteration: int | None = None
    label: str = ""

    @property
    def name(self) -> str:
        """The kind, with its label where there is one: `rollouts`, `evaluation/base`."""
        return f"{self.kind}/{self.label}" if self.label else self.kind

    @property
    def place(self) -> str:
        """The name of the directory of the step's first variant."""
        return self.name if self.iteration is None else f"iter-{self.iteration:03}/{self.name}"

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """The settings that decide the output, flat (`config.base.identity`)."""

    @abstractmethod
    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """Everything besides settings that decides the output."""

    @abstractmethod
    def run(self, work: Work) -> Result:
        """Make the output in `work.path`."""

    @property
    def rows_of(self) -> str | None:
        """A directory of problems, if the output must have exactly one row for each of them."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done about a step, where, and why."""

    step: Step
    state: State
    path: str
    reason: str
    finished: FinishedStep | None = None
    fingerprint: str = ""
    origin: FinishedStep | None = None
    """The same step in the run that this one starts from (`--from`)."""


class Planner:
    """Finds out what there is of each step, and makes nothing (`sphere run --dry-run`)."""

    def __init__(self, run: Run, origin: Run | None = None) -> None:
        """Plan in the directory of `run`; finished steps of `origin` count as there."""
        self._run = run
        self._origin = origin
        self.plans: list[Plan] = []

    def make(self, step: Step) -> Made:
        """Note what would be done; the output of a step that is not there is unknown."""
        plan = self.plan(step)
        self.plans.append(plan)
        return Made(name=step.name, path=plan.path, finished=plan.finished or plan.origin)

    def beside(self) -> "Planner":
        """A planner of what is made at the same time; its plans are noted among these."""
        return self

    def together(self, works: Sequence[Callable[[], object]]) -> None:
        """Do works that ask for steps at the same time; a plan lists one after the other."""
        for work in works:
            work()

    def plan(self, step: Step) -> Plan:
        """Look for a finished or half-made output of this step."""
        inputs = {name: _output(value) for name, value in step.inputs().items()}
        path = self._run.file(step.place)
        unmade = [name for name, output in inputs.items() if output is None]
        if unmade:
            reason = f"{', '.join(unmade)} will be new"
            return Plan(step=step, state=State.MAKE, path=path, reason=reason)
        identity = step.identity()
        mark = fingerprint(step.place, identity, inputs)
        found = list(self._variants(path))
        for variant, manifest in found:
            if manifest is not None and manifest.fingerprint == mark:
                finished = FinishedStep(path=variant, manifest=manifest)
                return _reuse(step, finished, mark)
        begun = {variant: storage.read_json(f"{variant}/{BEGUN}") for variant, _ in found}
        notes = {v: note for v, note in begun.items() if isinstance(note, dict)}
        half = next((v for v, note in notes.items() if note.get("fingerprint") == mark), None)
        if half is not None and step.resumable:
            reason = "an earlier session began it"
            return Plan(step=step, state=State.CONTINUE, path=half, reason=reason, fingerprint=mark)
        # A half-made variant of other settings may be continued later.
        taken = [v for v, manifest in found if manifest or (begun[v] and step.resumable)]
        target = half or (path if path not in taken else f"{path}-{mark[:8]}")
        if (origin := self._in_origin(mark)) is not None:
            return replace(_reuse(step, origin, mark), path=target, finished=None, origin=origin)
        return Plan(
            step=step,
            state=State.MAKE,
            path=target,
            reason=_why(identity, inputs, [manifest for _, manifest in found if manifest]),
            fingerprint=mark,
        )

    def _in_origin(self, mark: str) -> FinishedStep | None:
        steps = self._origin.variants if self._origin is not None else ()
        return next((each for each in steps if each.manifest.fingerprint == mark), None)

    def _variants(self, path: str) -> Iterator[tuple[str, Manifest | None]]:
        """Directories of a step that exist, and their manifests where they are finished."""
        parent, _, name = path.rpartition("/")
        for child in storage.children(parent):
            if child == name or (child.startswith(f"{name}-") and len(child) == len(name) + 9):
                variant = f"{parent}/{child}"
                file = f"{variant}/{MANIFEST}"
                value = storage.read_json(file)
                yield variant, None if value is None else Manifest.from_json(value, file)


class Executor(Planner):
    """Makes steps in an open run, each once, and keeps note of those that are current."""

    def __init__(self, session: Session, origin: Run | None = None) -> None:
        """Work in the run of `session`."""
        super().__init__(session.run, origin)
        self._session = session

    def beside(self) -> "Executor":
        """See `Planner.beside`: one that works in a partition of its own."""
        other = Executor(self._session.beside(), self._origin)
        other.plans = self.plans
        return other

    def together(self, works: Sequence[Callable[[], object]]) -> None:
        """See `Planner.together`; the first error, or a signal, ends all of them."""
        together(works, self._session.stop)

    def make(self, step: Step) -> Made:
        """Reuse, continue or make a step; its manifest is written last.

        Raises:
            SphereError: what the step's `run` raises.
        """
        plan = self.plan(step)
        if plan.origin is not None:
            storage.remove(plan.path)
            storage.copy_directory(plan.origin.path, plan.path, last=MANIFEST)
            plan = self.plan(step)
        finished = plan.finished or self._make(plan)
        self._clean(plan)
        self.plans.append(replace(plan, path=finished.path, finished=finished))
        run: WritableRun = self._session.run
        run.note_current([done.path for done in self.plans])
        return Made(name=step.name, path=finished.path, finished=finished)

    def _make(self, plan: Plan) -> FinishedStep:
        step = plan.step
        self._session.record("step", iteration=step.iteration, name=step.name, does=plan.state)
        identity = step.identity()
        inputs = {name: _output(value) for name, value in step.inputs().items()}
        if plan.state is State.MAKE:
            _begin(plan, identity, inputs)
        with _nothing_begun(plan.path), stopwatch(plan.path, step.name) as seconds:
            work = Work(
                path=plan.path,
                name=step.name,
                iteration=step.iteration,
                fingerprint=plan.fingerprint,
                session=self._session,
            )
            result = step.run(work)
            if step.rows_of is not None:
                storage.require_same_ids(step.rows_of, plan.path, ID_COLUMN)
        report = PhaseReport(
            phase=step.name,
            fingerprint=plan.fingerprint,
            rows_in=result.rows_in,
            rows_out=result.rows_out,
            seconds=seconds(),
            dropped=dict(result.dropped),
            tokens=result.tokens,
            pools=result.pools,
            writers=result.writers,
        )
        manifest = replace(
            Manifest.of(report, output=result.output, identity=identity, inputs=inputs),
            step=step.place,
        )
        storage.write_json(manifest.to_json(), f"{plan.path}/{MANIFEST}")
        place = plan.path.removeprefix(f"{self._run.path}/")
        self._session.record("committed", iteration=step.iteration, path=place)
        return FinishedStep(path=plan.path, manifest=manifest)

    def _clean(self, plan: Plan) -> None:
        """Remove what nobody needs beside a committed output; also where a kill came between."""
        if storage.exists(f"{plan.path}/{BEGUN}"):
            for leftover in (*plan.step.leftovers, SPENT, BEGUN):
                storage.remove(f"{plan.path}/{leftover}")


@contextmanager
def _nothing_begun(directory: str) -> Iterator[None]:
    """Leave no directory behind for a step that failed before it wrote anything."""
    try:
        yield
    except Exception:
        if set(storage.children(directory)) <= {BEGUN, SPENT}:
            storage.remove(directory)
        raise


def _begin(plan: Plan, identity: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Make room for the output, and note what it is made from."""
    storage.remove(plan.path)
    note = {"fingerprint": plan.fingerprint, "identity": identity, "inputs": inputs}
    storage.write_json(note, f"{plan.path}/{BEGUN}")


def _output(value: Made | ModelRef | str) -> str | None:
    if isinstance(value, Made):
        return value.output
    return (value.fingerprint or None) if isinstance(value, ModelRef) else value


def _reuse(step: Step, finished: FinishedStep, mark: str) -> Plan:
    return Plan(
        step=step,
        state=State.REUSE,
        path=finished.path,
        reason=f"made {finished.manifest.created[:16]}",
        finished=finished,
        fingerprint=mark,
    )


def _why(
    identity: Mapping[str, Any], inputs: Mapping[str, Any], finished: Sequence[Manifest]
) -> str:
    """What differs from the finished variant that is most alike."""
    if not finished:
        return "not made yet"
    changes = [
        [*differences(each.identity, identity), *differences(each.inputs, inputs)]
        for each in finished
    ]
    fewest = min(changes, key=len)
    shown, others = fewest[:_SHOWN_DIFFERENCES], len(fewest) - _SHOWN_DIFFERENCES
    return ", ".join(shown) + (f" and {others} more" if others > 0 else "")
