"""Reuse, continue or make: what the executor does about a step, and what a plan says of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sphere_ray import storage
from sphere_ray.errors import EngineError, RunDirectoryError
from sphere_ray.records import ModelRef
from sphere_ray.reporting.stopwatch import SPENT
from sphere_ray.runs.directory import Run
from sphere_ray.runs.step import BEGUN, Planner, Result, State, Work
from tests.runs.steps import Line, Resumed, executor, lines, opened


class LostError(Exception):
    """What ends an attempt."""


def loses(work: Any) -> None:
    storage.append_line("half", f"{work.path}/line.txt")
    raise LostError


@pytest.fixture(params=["local", "memory"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "runs" / "try")
        return
    yield "memory://bucket/try"
    storage.remove("memory://bucket")


def test_a_step_is_made_once_and_found_again(run_dir: str) -> None:
    step = Line(iteration=0, content={"a": 1}, given={"problems": "abc"})
    for _ in range(2):
        with opened(run_dir) as run:
            made = executor(run).make(step)
    assert lines(made) == ["{'a': 1}"]
    assert made.path.endswith("iter-000/line")
    assert made.report.rows_out == 1
    assert made.report.dropped == {"duplicate": 2}
    assert made.finished is not None
    assert made.finished.manifest.versions["ray"]
    assert not storage.exists(f"{made.path}/begun.json")


def test_another_setting_makes_another_output_beside_it(run_dir: str) -> None:
    with opened(run_dir) as run:
        first, second = (executor(run).make(Line(content={"rate": rate})) for rate in (3e-5, 1e-5))
        assert first.path != second.path
        assert (lines(first), lines(second)) == (["{'rate': 3e-05}"], ["{'rate': 1e-05}"])
        again = executor(run).make(Line(content={"rate": 3e-5}))
    assert again.path == first.path
    assert len(lines(again)) == 1


def test_another_input_makes_another_output(run_dir: str) -> None:
    model = ModelRef(path="m", iteration=0, fingerprint="one")
    other = ModelRef(path="elsewhere", iteration=0, fingerprint="two")
    moved = ModelRef(path="elsewhere", iteration=0, fingerprint="one")
    with opened(run_dir) as run:
        paths = [executor(run).make(Line(given={"model": m})).path for m in (model, other, moved)]
    assert paths[0] != paths[1]
    assert paths[2] == paths[0]


def test_a_kill_after_the_commit_leaves_no_rubbish_for_ever(run_dir: str) -> None:
    with opened(run_dir) as run:
        made = executor(run).make(Resumed())
        for name in (BEGUN, SPENT):
            storage.write_json({"fingerprint": "f"}, f"{made.path}/{name}")
        again = executor(run).make(Resumed())
    assert again.path == made.path
    assert storage.children(made.path) == ["line.txt", "manifest.json"]


def test_a_session_that_ends_early_forgets_no_later_step(run_dir: str) -> None:
    first, second = Line(label="first"), Line(label="second")
    with opened(run_dir) as run:
        both = executor(run)
        both.make(first)
        both.make(second)
        executor(run).make(first)  # the same command again, stopped after a step
        assert [step.name for step in run.steps] == ["line/first", "line/second"]
        changed = executor(run).make(Line(label="first", content={"a": 1}))
        assert [step.path for step in run.steps] == [changed.path]


def test_steps_see_what_came_of_the_steps_before(run_dir: str) -> None:
    with opened(run_dir) as run:
        first = executor(run).make(Line(label="first", content={"a": 1}))
        second = Line(label="second", given={"first": first})
        made = executor(run).make(second)
        changed = executor(run).make(Line(label="first", content={"a": 2}))
        remade = executor(run).make(Line(label="second", given={"first": changed}))
    assert remade.path != made.path


def test_an_interrupted_step_is_made_from_the_start(run_dir: str) -> None:
    with opened(run_dir) as run:
        with pytest.raises(LostError):
            executor(run).make(Line(ran=loses))
        assert lines(executor(run).make(Line())) == ["{}"]


def test_an_interrupted_step_that_can_is_continued(run_dir: str) -> None:
    with opened(run_dir) as run:
        with pytest.raises(LostError):
            executor(run).make(Resumed(ran=loses))
        assert Planner(run).plan(Resumed()).state is State.CONTINUE
        assert lines(executor(run).make(Resumed())) == ["half", "{}"]


def test_half_done_work_of_other_settings_is_kept_and_can_be_continued(run_dir: str) -> None:
    with opened(run_dir) as run:
        with pytest.raises(LostError):
            executor(run).make(Resumed(content={"a": 1}, ran=loses))
        other = executor(run).make(Resumed(content={"a": 2}))
        assert lines(other) == ["{'a': 2}"]
        assert lines(executor(run).make(Resumed(content={"a": 1}))) == ["half", "{'a': 1}"]


def test_what_a_step_leaves_without_a_note_is_removed(run_dir: str) -> None:
    with opened(run_dir) as run:
        storage.write_text("stray", run.file("line/line.txt"))
        assert lines(executor(run).make(Resumed())) == ["{}"]


@dataclass(frozen=True, kw_only=True)
class Answers(Line):
    """Has one row for each id that `answered` lists."""

    kind: ClassVar[str] = "answers"

    problems: str
    answered: tuple[str, ...]

    @property
    def rows_of(self) -> str:
        return self.problems

    def run(self, work: Work) -> Result:
        table = pa.table({"problem_id": list(self.answered)})
        storage.write_table(table, f"{work.path}/part.parquet")
        return Result(rows_in=2, rows_out=2)


@pytest.mark.parametrize(
    ("answered", "complaint"),
    [(("a",), "lacks 1 of 2 problems"), (("a", "b", "b"), "1 rows too many.* problem b")],
)
def test_output_without_one_row_for_each_problem_is_not_committed(
    tmp_path: Path, answered: tuple[str, ...], complaint: str
) -> None:
    with opened(tmp_path / "run") as run:
        problems = run.file("problems")
        storage.write_table(pa.table({"problem_id": ["a", "b"]}), f"{problems}/part.parquet")
        with pytest.raises(EngineError, match=complaint):
            executor(run).make(Answers(problems=problems, answered=answered))
        assert run.variants == []
        assert executor(run).make(Answers(problems=problems, answered=("b", "a"))).report.rows_out


def test_a_plan_says_what_differs_and_makes_nothing(run_dir: str) -> None:
    with opened(run_dir) as run:
        executor(run).make(Line(content={"rate": 3e-5, "seed": 0}))
        kept = storage.children(run.path)
        planner = Planner(Run.open(run_dir))
        made = planner.make(Line(content={"rate": 1e-5, "seed": 0}))
        planner.make(Line(label="next", given={"line": made}))
        planner.make(Line(content={"rate": 3e-5, "seed": 0}))
        assert storage.children(run.path) == kept
    states = [(plan.state, plan.reason) for plan in planner.plans]
    assert states[0] == (State.MAKE, "rate: 3e-05 there, 1e-05 here")
    assert states[1] == (State.MAKE, "line will be new")
    assert states[2][0] is State.REUSE
    assert made.output is None


def test_a_plan_of_a_run_that_does_not_exist_yet_makes_everything(tmp_path: Path) -> None:
    plan = Planner(Run(str(tmp_path / "new"))).plan(Line())
    assert (plan.state, plan.reason) == (State.MAKE, "not made yet")
    assert not (tmp_path / "new").exists()


def test_steps_of_another_run_count_as_made(tmp_path: Path) -> None:
    with opened(tmp_path / "one") as run:
        executor(run).make(Line(content={"a": 1}))
    origin = Run.open(str(tmp_path / "one"))
    with opened(tmp_path / "two") as run:
        made = executor(run, origin).make(Line(content={"a": 1}))
        other = executor(run, origin).make(Line(content={"a": 2}))
    assert made.path == str(tmp_path / "two" / "line")
    assert lines(made) == ["{'a': 1}"]
    assert made.finished is not None
    assert made.finished.manifest == origin.variants[0].manifest
    assert lines(other) == ["{'a': 2}"]


def test_the_first_run_stays_whole_when_the_second_is_removed(tmp_path: Path) -> None:
    with opened(tmp_path / "one") as run:
        made = executor(run).make(Line())
    with opened(tmp_path / "two") as run:
        executor(run, Run.open(str(tmp_path / "one"))).make(Line())
    storage.remove(str(tmp_path / "two"))
    assert lines(made) == ["{}"]


def test_time_of_interrupted_attempts_counts(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        with pytest.raises(LostError):
            executor(run).make(Resumed(ran=loses))
        storage.write_json({"seconds": 100.0}, run.file("line/spent.json"))
        made = executor(run).make(Resumed())
    assert 100 < made.report.seconds < 130
    assert not storage.exists(f"{made.path}/spent.json")


@pytest.mark.parametrize("content", ["{", "[]", '{"step": "line"}', "\ud800"])
def test_a_damaged_manifest_is_named(run_dir: str, content: str) -> None:
    with opened(run_dir) as run:
        made = executor(run).make(Line())
        filesystem, path = fsspec.core.url_to_fs(f"{made.path}/manifest.json")
        filesystem.pipe_file(path, content.encode("utf-8", "surrogatepass"))
        with pytest.raises(RunDirectoryError, match=r"manifest\.json is damaged"):
            executor(run).make(Line())


actions = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(actions)
def test_however_attempts_end_each_output_is_made_of_its_own_settings_alone(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[int, bool]]
) -> None:
    finished: dict[int, str] = {}
    with opened(tmp_path_factory.mktemp("run")) as run:
        for number, ends in attempts:
            step = Resumed(content={"n": number}, ran=(lambda work: None) if ends else loses)
            try:
                made = executor(run).make(step)
            except LostError:
                assert number not in finished
                continue
            assert finished.setdefault(number, made.path) == made.path
            assert [line for line in lines(made) if line != "half"] == [f"{{'n': {number}}}"]
        assert len(run.variants) == len(set(finished.values())) == len(finished)
