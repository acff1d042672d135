"""Run directories, models and places to write to, all by strangers: one sentence, exit code 2."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from sphere_ray.reporting.progress import ProgressBoard
from sphere_ray.runs.session import Session
from sphere_ray.tables.run import print_evaluation
from tests.cli.test_export import PAIR, commit
from tests.cli.test_hostile_input import told

SECRET = "s3cr3t"
MOST_SECONDS = 20


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    """Whatever gets as far as Ray has passed for good input."""

    def connect(session):
        raise AssertionError("the command went on to Ray")

    monkeypatch.setattr(Session, "connect", connect)
    began = time.process_time()
    yield
    assert time.process_time() - began < MOST_SECONDS


DOCUMENTS = {
    "a deep list": "[" * 200_000,
    "a deep object": '{"a":' * 100_000,
    "nothing": "",
    "a list": "[1]",
    "an object": '{"a": 1}',
    "half a pair": '{"name": "\\ud800"}',
    "binary": bytes(range(256)),
    "5,000 digits": '{"seed": ' + "9" * 5000 + "}",
}


def put(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def replace_by_no_file(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a loop":
        path.symlink_to(path)
    else:
        with path.open("wb") as file:
            file.truncate(3 << 30)


NO_FILES = ("a pipe", "a device", "a directory", "a loop", "3 GiB")


@pytest.mark.parametrize("name", ["steps.json", "iter-000/pairs/manifest.json"])
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_damaged_document_of_a_run(sphere, config, tmp_path, name, kind):
    commit(tmp_path / "run", {0: [PAIR]})
    put(tmp_path / "run" / name, DOCUMENTS[kind])
    told(sphere, "export", str(tmp_path / "run"), "--format", "trl")


@pytest.mark.parametrize("name", ["steps.json", "iter-000/pairs/manifest.json"])
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_in_a_run(sphere, tmp_path, name, kind):
    commit(tmp_path / "run", {0: [PAIR]})
    replace_by_no_file(tmp_path / "run" / name, kind)
    told(sphere, "export", str(tmp_path / "run"), "--format", "trl")
    if "manifest" in name:
        told(sphere, "train-prm", str(tmp_path / "run"))


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_damaged_note_of_what_was_begun(sphere, config, tmp_path, kind):
    config = simulated(config)
    put(tmp_path / "run" / "config.json", "{}")
    put(tmp_path / "run" / "problems" / "begun.json", DOCUMENTS[kind])
    code, _, err = sphere("run", str(config), "--dry-run")
    assert code == (0 if DOCUMENTS[kind] == '{"a": 1}' or "half" in kind or kind == "a list" else 2)
    assert err.count("\n") <= 1


@pytest.mark.parametrize("kind", [each for each in DOCUMENTS if each != "a list"])
def test_a_damaged_configuration_of_a_run(sphere, tmp_path, kind):
    put(tmp_path / "run" / "config.json", DOCUMENTS[kind])
    for command in ("train-prm", "tune", "score-report"):
        told(sphere, command, str(tmp_path / "run"))


@pytest.mark.parametrize(
    "place",
    [
        *["/nope", "/etc/passwd", "a\0b", "a\udc80", "", "~nobody-of-this-name/x", "x" * 5000],
        *[
            "a/" * 2000,
            f"http://u:{SECRET}@127.0.0.1:1/x",
            "zip://x::/nope.zip",
            "no://x",
            "\x1b[2J",
        ],
    ],
    ids=lambda place: repr(place)[:12],
)
def test_a_run_to_start_on_that_is_none(sphere, config, place):
    config = simulated(config)
    assert SECRET not in told(sphere, "run", str(config), "--from", place)
    assert SECRET not in told(sphere, "export", place, "--format", "trl")
    assert SECRET not in told(sphere, "tune", place)


@pytest.mark.parametrize(
    "run_dir",
    [
        *["x" * 300, "a/" * 2000, f"http://u:{SECRET}@127.0.0.1:1/x", "ftp://127.0.0.1:1/x"],
        *["zip://x::/nope.zip", "/dev/null/x"],
    ],
    ids=lambda place: place[:12],
)
def test_a_run_directory_that_cannot_be_made(sphere, config, run_dir):
    config = simulated(config, run_dir=run_dir)
    assert SECRET not in told(sphere, "run", str(config))
    code, out, err = sphere("run", str(config), "--dry-run")
    assert code in (0, 2)
    assert err.count("\n") <= 1
    assert SECRET not in out + err


def simulated(config: Path, **changes) -> Path:
    document = yaml.safe_load(config.read_text()) | changes
    document["engines"]["backend"] = "simulated"
    config.write_text(yaml.safe_dump(document))
    return config


@pytest.mark.parametrize(
    "model",
    [
        *[
            "./nope",
            "~nobody-of-this-name/m",
            "./" + "x" * 5000,
            "a\0b",
            "./\udc80",
            "",
            "/dev/zero",
        ],
        *["./\x1b[2J", f"https://u:{SECRET}@host/m", "a/b/c", "tiny:nope"],
    ],
    ids=lambda model: repr(model)[:12],
)
def test_a_model_that_cannot_be(sphere, tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "p.jsonl", '{"question": "1+1?", "answer": "2"}')
    problems = ("--problems", "file:p.jsonl")
    assert SECRET not in told(sphere, "evaluate", model, *problems)
    assert SECRET not in told(sphere, "compare", model, "tiny:llama", *problems)


@pytest.mark.parametrize("kind", [*DOCUMENTS, *NO_FILES])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_damaged_model(sphere, config, tmp_path, kind, name):
    model = tmp_path / "model"
    if (kind, name) == ("3 GiB", "tokenizer.json"):
        return  # that is a matter of its own: a file of weights may be as long
    for each in ("config.json", "tokenizer.json", "model.safetensors"):
        put(model / each, "{}")
    if kind in NO_FILES:
        replace_by_no_file(model / name, kind)
    else:
        put(model / name, DOCUMENTS[kind])
    for split in ("train", "validation", "test"):
        rows = [{"question": f"{split} {i}?", "answer": "1"} for i in range(3)]
        put(tmp_path / f"{split}.jsonl", "\n".join(map(json.dumps, rows)))
    document = yaml.safe_load(config.read_text())
    document["engines"]["policy"]["path"] = str(model)
    for split in document["problems"].values():
        split["source"] = split["source"].replace("file:", f"file:{tmp_path}/")
    config.write_text(yaml.safe_dump(document))
    told(sphere, "run", str(config))


@pytest.mark.parametrize(
    "output", ["/dev/null/x", "a\0b", "x" * 5000, f"http://u:{SECRET}@127.0.0.1:1/"]
)
def test_a_place_to_export_to_that_cannot_be(sphere, tmp_path, output):
    commit(tmp_path, {0: [PAIR]})
    message = told(sphere, "export", str(tmp_path), "--format", "trl", "--output", output)
    assert SECRET not in message


@pytest.mark.parametrize("kind", ["another schema", "other types", "columns twice", "no parquet"])
def test_pairs_that_are_none(sphere, tmp_path, kind):
    folder = commit(tmp_path, {0: [PAIR]})
    (file,) = folder.glob("*.parquet")
    good = pq.read_table(file)
    table = {
        "another schema": pa.table({"a": [1]}),
        "other types": pa.table({name: [1] for name in good.column_names}),
        "columns twice": pa.Table.from_arrays([pa.array([1])] * 2, ["pair_id"] * 2),
    }.get(kind)
    if table is None:
        file.write_bytes(b"PAR1 and more that is none PAR1")
    else:
        pq.write_table(table, file)
    told(sphere, "export", str(tmp_path), "--format", "trl")


@pytest.mark.parametrize(
    "override",
    [f"iterations={'9' * 90}", f"seed=0x{'f' * 80}", f"name={'x' * 10**6}"],
    ids=["a", "b", "c"],
)
def test_a_number_or_a_name_without_bounds(sphere, config, override):
    told(sphere, "run", str(config), "--dry-run", "--set", override)


def test_a_terminal_that_lacks_letters_shows_something_for_them(config):
    simulated(config, run_dir="runs/\u00e9")
    command = [sys.executable, "-m", "sphere_ray.cli", "run", str(config), "--dry-run"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"run_dir: runs/\xe9" in done.stdout


STEERING = "[/b] [red] :x: \x1b[2J"


def test_words_of_strangers_are_shown_as_they_are(capsys):
    """No markup, which could fail or hide words, no pictures for words, and no control codes."""
    screen = io.StringIO()
    console = Console(file=screen, width=200, color_system=None, emoji=False)
    score = {"n": 1, "pass@1": 1.0, "ci95": [0.2, 1.0]}
    score |= dict.fromkeys(("mean@k", "maj@k", "pass@k"))
    print_evaluation({"by_family": {"[/b] [red] :x:": score}, "failed": 0, **score}, console)
    assert "[/b] [red] :x:" in screen.getvalue()
    ProgressBoard().log(f"train, for example: {STEERING}\nnext")
    shown = capsys.readouterr().out
    assert "[/b] [red] :x:  [2J next" in shown
    assert "\x1b" not in shown
