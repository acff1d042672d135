"""What users get wrong costs them one sentence, and leaves nothing half-made behind."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from driving import OWN_RAY, SMOKE, finish, smoke

from sphere_ray import cli

# Enough of smoke.yaml to need no engine before the mistake is noticed.
TINY = "engines.policy.path=tiny:llama"


@pytest.fixture
def sphere(capsys, monkeypatch):
    """Run smoke.yaml with overrides in this process; returns exit code and standard error."""
    monkeypatch.setattr(cli, "catch_signals", lambda: None)

    def call(run_dir, *overrides):
        flags = [
            part for setting in (f"run_dir={run_dir}", *overrides) for part in ("--set", setting)
        ]
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", SMOKE, *flags])
        return ended.value.code, capsys.readouterr().err

    return call


@pytest.fixture
def refused(sphere, tmp_path):
    """Run with overrides that must be refused in one sentence; returns it."""

    def call(*overrides):
        code, err = sphere(tmp_path / "run", TINY, *overrides)
        assert code == 2
        assert_one_sentence(err)
        assert not ray.is_initialized()
        assert not unfinished(tmp_path / "run")
        return err

    return call


def assert_one_sentence(err):
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err


def unfinished(run_dir):
    """Directories of phases that hold something but were never committed."""
    places = ("problems", "evaluation", "test", "iter-*")
    files = [f for place in places for f in run_dir.glob(f"{place}/**/*") if f.is_file()]
    phases = {f.parent for f in run_dir.glob("**/manifest.json")}
    return [f for f in files if not phases & set(f.parents)]


def write_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return f"problems.train.source=file:{path}"


def row(number, **changes):
    values = {"question": f"What is {number} + 1?", "answer": str(number + 1)} | changes
    return json.dumps({name: value for name, value in values.items() if value is not None})


def rejected(tmp_path):
    lines = (tmp_path / "run/rejected/rows.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_problem_file_that_is_missing(refused, tmp_path):
    path = tmp_path / "absent.jsonl"
    assert str(path) in refused(f"problems.train.source=file:{path}")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"question": "1 + 1?", "answer"', "broken_row"),
        ("[1, 2]", "broken_row"),
        (row(7, question=["What", "is", "it?"]), "question_not_text"),
        (row(7, answer={"value": 8}), "answer_not_text"),
        (row(7, question="  \n "), "empty_question"),
        (row(7, answer=" "), "empty_answer"),
        (row(7, answer=None), "missing_answer"),
        (row(7, question=None), "missing_question"),
    ],
)
def test_too_many_bad_rows_are_kept_with_reasons_and_counted(refused, tmp_path, bad, reason):
    path = tmp_path / "train.jsonl"
    said = refused(write_lines(path, [row(1), bad, row(2)]))
    assert "1 of 3 rows" in said
    assert f"{path}:2" in said
    assert "problems.max_rejected_share" in said
    assert [(r["reason"], r["origin"]) for r in rejected(tmp_path)] == [(reason, f"{path}:2")]
    assert not (tmp_path / "run/problems").exists()


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"question": [1, 2], "answer": ["1", "2"]}, "2 of them for question not text"),
        ({"question": ["1?"], "answer": [{"value": 2}]}, "1 of them for answer not text"),
        ({"text": ["1 + 1?"], "answer": ["2"]}, "no question column"),
    ],
)
def test_columns_of_the_wrong_type_or_name(refused, tmp_path, columns, told):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table(columns), path)
    said = refused(f"problems.train.source=file:{path}")
    assert told in said
    assert str(path) in said


def test_a_problem_file_without_problems(refused, tmp_path):
    assert "has no rows" in refused(write_lines(tmp_path / "train.jsonl", []))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.learning_rat=1e-5", "did you mean learning_rate?"),
        ("serch.depth=3", "serch"),
        ("training.learning_rate=fast", "training.learning_rate"),
        ("problems.train.source=elsewhere", "elsewhere"),
    ],
)
def test_a_setting_that_is_unknown_or_wrong(refused, override, told):
    assert told in refused(override)


@pytest.fixture
def weightless(tmp_path):
    """A model directory that lacks its weights."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "tokenizer.json").write_text("{}")
    return directory


@pytest.mark.parametrize(
    "overrides",
    [
        ["engines.policy.path={model}"],
        ["engines.small={{path: {model}}}", "engines.small_pool={{kv_cache_gib: 1}}"],
        [
            "engines.scorer={{kind: process_reward, model: {{path: {model}}}, "
            "pool: {{kv_cache_gib: 1}}}}"
        ],
    ],
)
def test_a_model_without_weights_is_noticed_before_an_engine_starts(
    refused, tmp_path, weightless, overrides
):
    said = refused(*(override.format(model=weightless) for override in overrides))
    assert str(weightless) in said
    assert "weights" in said
    assert not list((tmp_path / "run").glob("**/manifest.json"))


@pytest.mark.ray
@pytest.mark.parametrize(
    ("override", "told"),
    [("engines.policy_pool.gpus=1", "1 GPUs"), ("trainer.cpus_per_worker=8", "16 CPUs")],
)
def test_a_cluster_that_is_too_small(tmp_path, override, told):
    run_dir = tmp_path / "run"
    good = [row(number) for number in range(30)]
    source = write_lines(tmp_path / "train.jsonl", [*good, "{broken"])
    done = finish(smoke(run_dir, *OWN_RAY, TINY, source, override))
    assert done.code == 2, done.err
    assert_one_sentence(done.err)
    assert told in done.err
    assert "the cluster has 2 CPUs and 0 GPUs" in done.err
    assert not unfinished(run_dir)
    # The problems were sound: one bad row of many is put aside.
    assert [r["reason"] for r in rejected(tmp_path)] == ["broken_row"]
    assert json.loads((run_dir / "problems/manifest.json").read_text())["report"]["rows_in"] == 47


@pytest.mark.parametrize("text", ["", "name: [", "- a list"])
def test_a_configuration_that_is_none(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    command = [sys.executable, "-m", "sphere_ray.cli", "run", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert_one_sentence(done.stderr)
    assert str(path) in done.stderr
