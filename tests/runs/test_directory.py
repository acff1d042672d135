"""Run directories: one writer, any number of readers, local and remote."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sphere_ray
from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.errors import RunDirectoryError
from sphere_ray.provenance import fingerprint
from sphere_ray.records import Problem
from sphere_ray.runs.directory import Run, WritableRun
from sphere_ray.runs.steps.problems import GivenProblemsStep
from tests.runs.steps import Line, executor, opened, settings

PROBLEM = Problem(problem_id="p", question="1+1?", answer="2", source="test")


@pytest.fixture(params=["local", "memory"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "runs" / "try")
        return
    yield "memory://bucket/try"
    storage.remove("memory://bucket")


def test_a_run_can_be_read_while_it_is_written(run_dir: str) -> None:
    with opened(run_dir, seed=3) as writer:
        reader = Run.open(run_dir)
        assert reader.settings == settings(seed=3)
        assert (reader.steps, reader.summary, reader.iterations) == ([], None, [])
        executor(writer).make(GivenProblemsStep(split="train", problems=(PROBLEM,)))
        step = reader.step("problems")
        assert step is not None
        assert list(step.rows(Problem, below="train")) == [PROBLEM]
        writer.append_event(json.dumps({"event": "x"}))
        assert [event["event"] for event in reader.events()] == ["x"]


def test_a_copy_of_a_run_elsewhere_is_read_as_well(tmp_path: Path) -> None:
    with opened(tmp_path / "here") as writer:
        executor(writer).make(GivenProblemsStep(split="train", problems=(PROBLEM,)))
    shutil.move(tmp_path / "here", tmp_path / "there")
    (step,) = Run.open(str(tmp_path / "there")).steps
    assert list(step.rows(Problem, below="train")) == [PROBLEM]
    assert step.path.startswith(str(tmp_path / "there"))


def test_the_steps_of_a_run_are_those_of_its_latest_settings(run_dir: str) -> None:
    with opened(run_dir) as writer:
        for content in ({"a": 1}, {"a": 2}):
            made = executor(writer).make(Line(iteration=1, label="x", content=content))
    run = Run.open(run_dir)
    (step,) = run.steps
    assert step.path == made.path
    assert (step.kind, step.iteration, step.label) == ("line", 1, "x")
    assert run.step("line", 1, "x") == step
    assert run.step("line", 0, "x") is None
    assert len(run.variants) == 2
    assert run.iterations == [1]


def test_a_model_is_found_with_its_recorded_fingerprint(tmp_path: Path) -> None:
    with opened(tmp_path) as writer:
        made = executor(writer).make(Line(iteration=2))
        assert made.finished is not None
        assert made.finished.model is None
        storage.write_text("weights", f"{made.path}/model/model.safetensors")
        model = made.finished.model
    assert model is not None
    assert (model.iteration, model.fingerprint) == (3, made.output)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        Run.open(str(tmp_path))
    assert sphere_ray.Run is Run


def test_settings_of_another_version_are_one_sentence(tmp_path: Path) -> None:
    with opened(tmp_path) as writer:
        storage.write_json({"name": "x", "old": 1}, writer.file("config.json"))
    with pytest.raises(RunDirectoryError, match="this version of sphere"):
        _ = Run.open(str(tmp_path)).settings


def test_a_new_run_directory_holds_the_resolved_configuration(run_dir: str) -> None:
    with opened(run_dir, seed=3) as run:
        written = storage.read_json(run.file("config.json"))
    assert RunSettings.model_validate(written) == settings(seed=3)


def test_another_configuration_is_welcome(run_dir: str) -> None:
    with opened(run_dir) as run:
        executor(run).make(Line(content={"seed": 0}))
    with opened(run_dir, seed=1, training={"learning_rate": 1e-5}) as run:
        assert Run.open(run_dir).settings.seed == 1
        assert len(run.variants) == 1


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunDirectoryError, match="neither empty nor a run directory"):
        opened(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(RunDirectoryError, match="neither empty nor a run directory"):
        opened(file)
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        opened(file / "below")


def test_an_unknown_filesystem_is_refused() -> None:
    with pytest.raises(RunDirectoryError, match="nosuch"):
        opened("nosuch://bucket/run")


def test_a_second_driver_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"in use by another driver \(process \d+ on"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


HOLD = """
import sys
from tests.runs.steps import opened
run = opened(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_driver_lets_the_next_one_in(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunDirectoryError, match=f"process {holder.pid} on"):
            opened(tmp_path)
        holder.kill()
        holder.wait()
    opened(tmp_path).close()


def test_events_are_appended_across_sessions(run_dir: str) -> None:
    for number in (1, 2):
        with opened(run_dir) as run:
            run.append_event(json.dumps({"n": number}))
    assert [event["n"] for event in Run.open(run_dir).events()] == [1, 2]


def test_a_line_that_a_killed_driver_did_not_finish_is_passed_over(run_dir: str) -> None:
    with opened(run_dir) as run:
        run.append_event('{"n": 1}')
        storage.write_text('{"n": 1}\n{"n": 2', run.file("events.jsonl"))
    assert [event["n"] for event in Run.open(run_dir).events()] == [1]


def test_a_directory_of_an_earlier_version_is_refused_and_left_as_it_is(run_dir: str) -> None:
    path = storage.resolve(run_dir)
    storage.write_json({"name": "old"}, f"{path}/config.json")
    storage.write_json({"phase": "problems"}, f"{path}/problems/manifest.json")
    with pytest.raises(RunDirectoryError, match=r"earlier version of sphere.*another run_dir"):
        opened(run_dir)
    assert storage.read_json(f"{path}/config.json") == {"name": "old"}


def test_tables_of_a_directory_are_read_in_order_of_their_names(run_dir: str) -> None:
    directory = f"{storage.resolve(run_dir)}/data"
    for name in ("b", "a", "_ignored"):
        storage.write_table(pa.table({"name": [name], "x": [1]}), f"{directory}/{name}.parquet")
    assert storage.column(directory, "name").to_pylist() == ["a", "b"]
    assert [t.column_names for t in storage.tables(directory, ["name"])] == [["name"]] * 2
    assert storage.column(f"{directory}/b.parquet", "name").to_pylist() == ["b"]


def test_a_table_is_replaced_as_a_whole(run_dir: str) -> None:
    path = f"{storage.resolve(run_dir)}/data.parquet"
    for value in (1, 2):
        storage.write_table(pa.table({"value": [value]}), path)
    assert [table["value"].to_pylist() for table in storage.tables(path)] == [[2]]
    assert storage.children(storage.resolve(run_dir)) == ["data.parquet"]


def write_junk(directory: str) -> str:
    storage.write_text("junk", f"{directory}/a.parquet")
    return directory


def name_nothing(directory: str) -> str:
    return f"{directory}/absent.parquet"


@pytest.mark.parametrize(
    ("prepare", "complaint"),
    [(name_nothing, "does not exist"), (write_junk, r"a\.parquet is damaged")],
)
def test_unreadable_tables_are_named(
    run_dir: str, prepare: Callable[[str], str], complaint: str
) -> None:
    path = prepare(f"{storage.resolve(run_dir)}/data")
    with pytest.raises(RunDirectoryError, match=complaint):
        list(storage.tables(path))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(run_dir: str) -> None:
    directory = storage.resolve(run_dir)
    storage.write_text("old", f"{directory}/note")
    with pytest.raises(UnicodeEncodeError):
        storage.write_text("new \ud800", f"{directory}/note")
    assert storage.read_text(f"{directory}/note") == "old"
    assert storage.children(directory) == ["note"]


def test_a_file_whose_writer_was_killed_counts_no_rows(run_dir: str) -> None:
    directory = f"{storage.resolve(run_dir)}/data"
    storage.write_table(pa.table({"value": [1, 2]}), f"{directory}/a.parquet")
    filesystem, path = fsspec.core.url_to_fs(f"{directory}/a.parquet")
    filesystem.pipe_file(path.replace("a.parquet", "b.parquet"), filesystem.cat_file(path)[:-9])
    filesystem.pipe_file(path.replace("a.parquet", "c.parquet"), b"")
    assert storage.count_rows(directory) == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_a_fingerprint_ignores_the_order_of_keys(value: dict[str, Any]) -> None:
    backwards = dict(reversed(value.items()))
    assert fingerprint(value) == fingerprint(backwards)


def test_fingerprints_tell_values_apart() -> None:
    values: list[Any] = [1, "1", 1.5, None, [], [[]], {}, {"a": 1}, {"a": "1"}]
    assert len({fingerprint(v) for v in values}) == len(values)
    assert fingerprint("a", "b") != fingerprint("ab")


def test_fingerprints_are_equal_across_processes() -> None:
    code = "from sphere_ray.provenance import fingerprint as f; print(f({'b': 1, 'a': {'x': 2}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == fingerprint({"a": {"x": 2}, "b": 1})


def test_a_writer_is_a_run_too(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        assert isinstance(run, WritableRun)
        assert run.settings == settings()
