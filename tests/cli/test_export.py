import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pyarrow.parquet as pq
import pytest

from sphere_ray.commands.export import export_trl
from sphere_ray.errors import RunDirectoryError
from sphere_ray.records import Message, PreferencePair, StageName
from sphere_ray.runs.step import Result, Step
from sphere_ray.schema import to_table
from sphere_ray.storage import write_table
from tests.runs.steps import executor, opened

PAIR = PreferencePair(
    pair_id="1",
    problem_id="p",
    stage=StageName.SELF_GENERATION,
    prompt=(Message(role="system", content="Think."), Message(role="user", content="2+2?")),
    chosen="2+2=4.\n\nSo \\boxed{4} \u00e9",
    rejected="2+2=5",
)
STEP = replace(
    PAIR, pair_id="2", prefix="First.\n\n", prefix_ids=(7, 8), chosen="Good.", rejected="Bad."
)


@dataclass(frozen=True, kw_only=True)
class Pairs(Step):
    """A pairs step whose pairs are given."""

    kind: ClassVar[str] = "pairs"

    pairs: list

    def identity(self):
        return {}

    def inputs(self):
        return {}

    def run(self, work):
        for i, pair in enumerate(self.pairs):
            write_table(to_table([pair], PreferencePair), f"{work.path}/part-{i}.parquet")
        return Result(rows_in=len(self.pairs), rows_out=len(self.pairs))


def commit(run_dir, iterations):
    """A run with the pairs of each iteration, in this order."""
    with opened(run_dir) as run:
        maker = executor(run)
        for iteration, pairs in iterations.items():
            maker.make(Pairs(iteration=iteration, pairs=pairs))
    return run_dir / "iter-000" / "pairs"


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_pairs_are_written_as_conversations_in_both_formats(tmp_path):
    commit(tmp_path, {0: [PAIR, STEP]})
    written = export_trl(str(tmp_path), output=None, iteration=None)
    prompt = [{"role": "system", "content": "Think."}, {"role": "user", "content": "2+2?"}]
    whole, step = read(written.jsonl)
    assert whole == {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": PAIR.chosen}],
        "rejected": [{"role": "assistant", "content": PAIR.rejected}],
    }
    assert step["prompt"] == prompt
    assert step["chosen"] == [{"role": "assistant", "content": "First.\n\nGood."}]
    assert step["rejected"] == [{"role": "assistant", "content": "First.\n\nBad."}]
    assert pq.read_table(written.parquet).to_pylist() == [whole, step]
    assert written.num_pairs == 2
    assert sorted(p.name for p in (tmp_path / "export" / "trl").iterdir()) == [
        "pairs.jsonl",
        "pairs.parquet",
    ]


def test_iterations_are_joined_in_order_or_chosen(tmp_path):
    commit(tmp_path, {number: [replace(PAIR, chosen=f"from {number}")] for number in (0, 1)})
    everything = export_trl(str(tmp_path), output=str(tmp_path / "all"), iteration=None)
    assert [r["chosen"][0]["content"] for r in read(everything.jsonl)] == ["from 0", "from 1"]
    second = export_trl(str(tmp_path), output=str(tmp_path / "one"), iteration=1)
    assert [r["chosen"][0]["content"] for r in read(second.jsonl)] == ["from 1"]


def test_uncommitted_pairs_are_not_exported(tmp_path):
    commit(tmp_path, {0: [PAIR], 1: [STEP]})
    (tmp_path / "iter-001/pairs/manifest.json").unlink()
    assert export_trl(str(tmp_path), output=None, iteration=None).num_pairs == 1
    with pytest.raises(RunDirectoryError, match=r"of iteration 1 \(there are: iter-000/pairs\)"):
        export_trl(str(tmp_path), output=None, iteration=1)


def test_a_damaged_file_leaves_no_export_behind(tmp_path):
    folder = commit(tmp_path, {0: [PAIR]})
    (folder / "part-1.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(RunDirectoryError, match="damaged"):
        export_trl(str(tmp_path), output=None, iteration=None)
    assert list((tmp_path / "export" / "trl").iterdir()) == []


def test_pairs_that_the_run_did_not_make_are_not_exported(tmp_path):
    folder = commit(tmp_path, {0: [PAIR]})
    write_table(to_table([STEP], PreferencePair), f"{folder}/part-9.parquet")
    with pytest.raises(RunDirectoryError, match="holds 2 pairs, but the run made 1"):
        export_trl(str(tmp_path), output=None, iteration=None)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(("files", "told"), [([], "no config.json"), (["config.json"], "no commi")])
def test_what_is_no_finished_run_is_refused(tmp_path, files, told):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(RunDirectoryError, match=told):
        export_trl(str(tmp_path), output=None, iteration=None)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    commit(tmp_path, {0: [PAIR]})
    (tmp_path / "occupied").write_text("a file")
    with pytest.raises(RunDirectoryError, match="choose another --output"):
        export_trl(str(tmp_path), output=str(tmp_path / "occupied" / "x"), iteration=None)
