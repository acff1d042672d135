import json
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

from sphere_ray.config import RunSettings
from sphere_ray.errors import RunDirectoryError
from sphere_ray.records import PhaseReport
from sphere_ray.runs import storage
from sphere_ray.runs.manifest import fingerprint
from sphere_ray.runs.store import PhaseDir, RunStore


def settings(**changes: Any) -> RunSettings:
    return RunSettings.model_validate(
        {
            "name": "try",
            "run_dir": "unused",
            "problems": {
                split: {"source": f"file:{split}.jsonl"}
                for split in ("train", "validation", "test")
            },
            "engines": {
                "policy": {"path": "tiny:llama"},
                "policy_pool": {"kv_cache_gib": 1},
            },
        }
        | changes
    )


def finish(phase: PhaseDir, rows: int = 1) -> None:
    report = PhaseReport(
        phase=phase.name,
        fingerprint=phase.fingerprint,
        rows_in=rows,
        rows_out=rows,
        seconds=0.5,
        dropped={"duplicate": 2},
    )
    phase.commit(report)


@pytest.fixture(params=["local", "memory"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "runs" / "try")
        return
    yield "memory://bucket/try"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_a_new_run_directory_holds_the_resolved_configuration(run_dir: str) -> None:
    with RunStore.open(run_dir, settings(seed=3)) as store:
        written = storage.read_json(store.path_of("config.json"))
    assert RunSettings.model_validate(written) == settings(seed=3)


def test_a_committed_phase_is_found_again(run_dir: str) -> None:
    with RunStore.open(run_dir, settings()) as store:
        phase = store.phase(0, "rollouts", {"problems": "abc"})
        assert phase.committed() is None
        phase.begin()
        finish(phase, rows=7)
    with RunStore.open(run_dir, settings()) as store:
        manifest = store.phase(0, "rollouts", {"problems": "abc"}).committed()
    assert manifest is not None
    assert manifest.report.rows_out == 7
    assert manifest.report.dropped == {"duplicate": 2}
    assert manifest.versions["ray"]
    assert manifest.code


@pytest.mark.parametrize(
    "changes",
    [
        {"iterations": 3},
        {"rollout": {"batch_size": 9}},
        {"trainer": {"workers": 2}},
        {"name": "renamed"},
    ],
)
def test_placement_and_more_iterations_keep_committed_phases(
    run_dir: str, changes: dict[str, Any]
) -> None:
    with RunStore.open(run_dir, settings()) as store:
        finish(store.phase(0, "policy"))
    with RunStore.open(run_dir, settings(**changes)) as store:
        assert store.phase(0, "policy").committed() is not None
        assert store.phase(1, "policy").committed() is None


def test_another_configuration_is_refused_naming_the_fields(run_dir: str) -> None:
    with RunStore.open(run_dir, settings()) as store:
        finish(store.phase(None, "problems"))
    other = settings(seed=1, training={"learning_rate": 1e-5})
    with pytest.raises(RunDirectoryError) as caught:
        RunStore.open(run_dir, other)
    message = str(caught.value)
    assert "seed: 0 there, 1 here" in message
    assert "training.learning_rate: 5e-07 there, 1e-05 here" in message
    assert "\n" not in message
    with RunStore.open(run_dir, settings()) as store:
        assert store.phase(None, "problems").committed() is not None


def test_a_refused_configuration_does_not_hold_the_lock(run_dir: str) -> None:
    with RunStore.open(run_dir, settings()) as store:
        finish(store.phase(None, "problems"))
    with pytest.raises(RunDirectoryError):
        RunStore.open(run_dir, settings(seed=1))
    RunStore.open(run_dir, settings()).close()


def test_half_done_resumable_work_binds_the_directory_too(run_dir: str) -> None:
    with RunStore.open(run_dir, settings()) as store:
        store.phase(0, "rollouts").begin(resumable=True)
    with pytest.raises(RunDirectoryError, match="seed: 0 there, 1 here"):
        RunStore.open(run_dir, settings(seed=1))


def test_a_directory_without_results_may_change_its_configuration(run_dir: str) -> None:
    with RunStore.open(run_dir, settings()) as store:
        store.phase(None, "problems").begin()
    with RunStore.open(run_dir, settings(seed=1)) as store:
        assert storage.read_json(store.path_of("config.json"))["seed"] == 1


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunDirectoryError, match="neither empty nor a run directory"):
        RunStore.open(str(tmp_path), settings())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(RunDirectoryError, match="neither empty nor a run directory"):
        RunStore.open(str(file), settings())
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        RunStore.open(str(file / "below"), settings())


def test_an_unknown_filesystem_is_refused() -> None:
    with pytest.raises(RunDirectoryError, match="nosuch"):
        RunStore.open("nosuch://bucket/run", settings())


def test_a_second_driver_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first = RunStore.open(str(tmp_path), settings())
    with pytest.raises(RunDirectoryError, match=r"in use by another driver \(process \d+ on"):
        RunStore.open(str(tmp_path), settings())
    first.close()
    RunStore.open(str(tmp_path), settings()).close()


HOLD = """
import sys
from sphere_ray.runs.lock import acquire
acquire(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_driver_lets_the_next_one_in(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunDirectoryError, match=f"process {holder.pid} on"):
            RunStore.open(str(tmp_path), settings())
        holder.kill()
        holder.wait()
    RunStore.open(str(tmp_path), settings()).close()


def test_a_different_upstream_is_refused_and_named(run_dir: str) -> None:
    with RunStore.open(run_dir, settings()) as store:
        finish(store.phase(0, "policy", {"pairs": "aaa", "model": "m"}))
        with pytest.raises(RunDirectoryError, match="pairs: 'aaa' there, 'bbb' here"):
            store.phase(0, "policy", {"pairs": "bbb", "model": "m"}).committed()


def test_beginning_removes_what_an_interrupted_attempt_left(run_dir: str) -> None:
    with RunStore.open(run_dir, settings()) as store:
        phase = store.phase(0, "pairs")
        phase.begin()
        storage.write_text("half", f"{phase.path}/part-0.parquet")
        phase.begin()
        assert storage.listing(phase.path) == []


def test_a_resumable_phase_keeps_its_rows_for_the_same_inputs_only(run_dir: str) -> None:
    with RunStore.open(run_dir, settings()) as store:
        phase = store.phase(0, "rollouts", {"problems": "a"})
        phase.begin(resumable=True)
        storage.write_text("rows", f"{phase.path}/part-0.parquet")
        phase.begin(resumable=True)
        assert "part-0.parquet" in storage.listing(phase.path)
        with pytest.raises(RunDirectoryError, match="problems: 'a' there, 'b' here"):
            store.phase(0, "rollouts", {"problems": "b"}).begin(resumable=True)
        assert "part-0.parquet" in storage.listing(phase.path)


def test_a_committed_phase_cannot_begin_again(run_dir: str) -> None:
    with RunStore.open(run_dir, settings()) as store:
        phase = store.phase(0, "rollouts")
        finish(phase)
        with pytest.raises(RunDirectoryError, match="committed already"):
            phase.begin(resumable=True)


def test_a_report_of_another_phase_is_not_committed(run_dir: str) -> None:
    with RunStore.open(run_dir, settings()) as store:
        phase = store.phase(1, "pairs")
        report = PhaseReport(
            phase="pairs",
            fingerprint=store.phase(0, "pairs").fingerprint,
            rows_in=0,
            rows_out=0,
            seconds=0,
        )
        with pytest.raises(ValueError, match="does not belong"):
            phase.commit(report)
        assert phase.committed() is None


@pytest.mark.parametrize("content", ["{", "[]", '{"phase": "pairs"}', "\ud800"])
def test_a_damaged_manifest_is_named(run_dir: str, content: str) -> None:
    with RunStore.open(run_dir, settings()) as store:
        phase = store.phase(0, "pairs")
        finish(phase)
        filesystem, path = fsspec.core.url_to_fs(f"{phase.path}/manifest.json")
        filesystem.pipe_file(path, content.encode("utf-8", "surrogatepass"))
        with pytest.raises(RunDirectoryError, match=r"manifest\.json is damaged"):
            phase.committed()


def test_events_are_appended_across_sessions(run_dir: str) -> None:
    for number in (1, 2):
        with RunStore.open(run_dir, settings()) as store:
            store.append_event(json.dumps({"n": number}))
    lines = (storage.read_text(store.path_of("events.jsonl")) or "").splitlines()
    assert [json.loads(line)["n"] for line in lines] == [1, 2]


def test_tables_of_a_directory_are_read_in_order_of_their_names(run_dir: str) -> None:
    directory = f"{storage.resolve(run_dir)}/data"
    for name in ("b", "a", "_ignored"):
        storage.write_table(pa.table({"name": [name]}), f"{directory}/{name}.parquet")
    assert storage.read_table(directory)["name"].to_pylist() == ["a", "b"]
    assert storage.read_table(f"{directory}/b.parquet")["name"].to_pylist() == ["b"]


def test_a_table_is_replaced_as_a_whole(run_dir: str) -> None:
    path = f"{storage.resolve(run_dir)}/data.parquet"
    for value in (1, 2):
        storage.write_table(pa.table({"value": [value]}), path)
    assert storage.read_table(path)["value"].to_pylist() == [2]
    assert storage.listing(storage.resolve(run_dir)) == ["data.parquet"]


def write_junk(directory: str) -> None:
    storage.write_text("junk", f"{directory}/a.parquet")


def write_two_schemas(directory: str) -> None:
    for name in "ab":
        storage.write_table(pa.table({name: [1]}), f"{directory}/{name}.parquet")


@pytest.mark.parametrize(
    ("prepare", "complaint"),
    [
        (storage.make_directory, "holds no parquet file"),
        (write_junk, r"a\.parquet is damaged"),
        (write_two_schemas, "differ"),
    ],
)
def test_unreadable_tables_are_named(
    run_dir: str, prepare: Callable[[str], object], complaint: str
) -> None:
    directory = f"{storage.resolve(run_dir)}/data"
    prepare(directory)
    with pytest.raises(RunDirectoryError, match=complaint):
        storage.read_table(directory)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(run_dir: str) -> None:
    directory = storage.resolve(run_dir)
    storage.write_text("old", f"{directory}/note")
    with pytest.raises(UnicodeEncodeError):
        storage.write_text("new \ud800", f"{directory}/note")
    assert storage.read_text(f"{directory}/note") == "old"
    assert storage.listing(directory) == ["note"]


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
    code = (
        "from sphere_ray.runs.manifest import fingerprint as f; print(f({'b': 1, 'a': {'x': 2}}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == fingerprint({"a": {"x": 2}, "b": 1})
