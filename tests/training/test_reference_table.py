"""The table's types and order, and that a worker holds a chunk of pairs at most."""

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sphere_ray.config.training import TrainerPlacement, TrainingSettings
from sphere_ray.models.tiny import make_llama
from sphere_ray.training import reference
from sphere_ray.training.messages import ReferenceDone, ReferenceProgress, ReferenceRequest
from sphere_ray.training.reference_table import SCHEMA, Logps, ReferenceTable, new_part, part_path
from sphere_ray.training.workers import Host, Worker
from sphere_ray.trees.pairs import EncodedPair
from tests.training.pairs import write_pairs

LISTS = [field for field in SCHEMA if field.name.endswith(("_ids", "_logps"))]


def pair(number: int) -> EncodedPair:
    chosen, rejected = tuple(range(1, 2 + number % 3)), (5,) * (1 + number % 2)
    return EncodedPair(
        pair_id=f"id-{number:03d}", prompt_ids=(7, number), chosen_ids=chosen, rejected_ids=rejected
    )


def logps(each: EncodedPair) -> Logps:
    # A float32 holds these exactly.
    start = float(each.prompt_ids[1])
    return (
        np.full(len(each.chosen_ids), start, np.float32),
        np.full(len(each.rejected_ids), -start, np.float32),
    )


def test_the_offsets_of_its_lists_have_64_bits() -> None:
    # With 32 bits a table of 2.2 million pairs of 960 tokens could not be written.
    assert len(LISTS) == 5
    assert all(pa.types.is_large_list(field.type) for field in LISTS)


@pytest.mark.parametrize("world", [1, 3])
def test_pairs_come_in_the_order_of_their_ids_whoever_wrote_them(
    tmp_path: Path, world: int
) -> None:
    pairs = [pair(number) for number in range(20)]
    random.Random(world).shuffle(pairs)
    for rank in range(world):
        with new_part(part_path(str(tmp_path), rank)) as append:
            for some in (pairs[rank::world][:3], [], pairs[rank::world][3:]):
                append(some, [logps(each) for each in some])
    table = ReferenceTable(str(tmp_path))
    assert len(table) == 20
    for number in range(20):
        found, expected = table.pair(number), pair(number)
        assert found.pair_id == expected.pair_id
        assert found.prompt_ids.tolist() == list(expected.prompt_ids)
        assert found.rejected_ids.tolist() == list(expected.rejected_ids)
        assert table.tokens()[number] == expected.tokens
        for one, other in zip(table.logps(number), logps(expected), strict=True):
            assert one.tolist() == other.tolist()


def test_a_part_that_was_not_finished_is_none(tmp_path: Path) -> None:
    def broken() -> None:
        with new_part(part_path(str(tmp_path), 0)) as append:
            append([pair(1)], [logps(pair(1))])
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        broken()
    assert len(ReferenceTable(str(tmp_path))) == 0


class Alone:
    """One worker without a process group; it notes what it reports."""

    def __init__(self, tmp_path: Path, settings: TrainingSettings) -> None:
        make_llama(tmp_path)
        self.request = ReferenceRequest(
            model_dir=str(tmp_path),
            pairs_paths=(write_pairs(tmp_path / "pairs", 22, parts=3),),
            output_dir=str(tmp_path / "reference"),
            settings=settings,
            placement=TrainerPlacement(),
        )
        self.seen: list[object] = []
        self.forwards: list[int] = []

    def write(self, monkeypatch: pytest.MonkeyPatch) -> ReferenceDone:
        monkeypatch.setattr(Worker, "gather", lambda worker, value: [value])
        host = Host(
            device=torch.device("cpu"),
            report=self.seen.append,
            latest_checkpoint=lambda: nullcontext(None),
            new_checkpoint=lambda name: nullcontext(Path(name)),
        )
        worker = Worker(rank=0, world=1, host=host)
        return reference.write_table(self.request, worker, self.score, lambda each: None)

    def score(self, pairs: Sequence[EncodedPair]) -> list[Logps]:
        self.forwards.append(len(pairs))
        return [
            (np.zeros(len(each.chosen_ids)), np.zeros(len(each.rejected_ids))) for each in pairs
        ]


def test_a_worker_holds_one_chunk_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "CHUNK", 8)
    held: list[int] = []
    encode = reference.encode_pairs

    def counted(pairs: Sequence[object], *rest: object) -> object:
        held.append(len(pairs))
        return encode(pairs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(reference, "encode_pairs", counted)
    alone = Alone(tmp_path, TrainingSettings(batch_size=3, micro_batch_size=3))
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "part-00007.arrow").write_bytes(b"of an earlier attempt")
    alone.write(monkeypatch)
    assert held == [8, 8, 6]
    assert alone.forwards == [3] * (3 + 3 + 2)
    with pa.ipc.open_file(pa.memory_map(str(part_path(str(tmp_path / "reference"), 0)))) as part:
        assert [part.get_batch(n).num_rows for n in range(part.num_record_batches)] == [8, 8, 6]
    assert len(ReferenceTable(str(tmp_path / "reference"))) == 22
    assert alone.seen[0] == ReferenceProgress(done=3)
    assert alone.seen[-1] == ReferenceProgress(done=22)


def test_pairs_of_either_list_type_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Alone(tmp_path, TrainingSettings(batch_size=1))
    for part in (tmp_path / "pairs").glob("part-*"):
        table = pq.read_table(part)
        for turn in (pa.list_, pa.large_list):
            for name in ("chosen_ids", "rejected_ids", "prefix_ids"):
                column = table[name].cast(turn(pa.int32()))
                table = table.set_column(table.schema.get_field_index(name), name, column)
        pq.write_table(table, part)
    alone.write(monkeypatch)
    assert len(ReferenceTable(str(tmp_path / "reference"))) == 22


def test_pairs_that_cannot_be_trained_on_leave_an_empty_table_with_the_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Alone(tmp_path, TrainingSettings(batch_size=1, max_length=2))
    done = alone.write(monkeypatch)
    assert (done.pairs, done.dropped) == (0, {"too_long": 22})
    assert len(ReferenceTable(str(tmp_path / "reference"))) == 0


def test_a_pair_whose_rejected_side_is_too_unlikely_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Alone(tmp_path, TrainingSettings(batch_size=2, micro_batch_size=2))
    means: dict[str, float] = {}

    def score(pairs: Sequence[EncodedPair]) -> list[Logps]:
        """A third of the pairs lies 0.5 below its chosen side, a third 1, a third 2."""
        for each in pairs:
            means.setdefault(each.pair_id, (-1.0, -1.5, -2.5)[len(means) % 3])
        return [
            (
                np.full(len(each.chosen_ids), -0.5),
                np.full(len(each.rejected_ids), means[each.pair_id]),
            )
            for each in pairs
        ]

    alone.score = score  # type: ignore[method-assign]  # log-probs that differ by pair
    whole = alone.write(monkeypatch)
    assert (whole.pairs, whole.dropped) == (22, {})
    alone.request = replace(alone.request, max_logprob_gap=1.25)
    done = alone.write(monkeypatch)
    unlikely = sum(mean < -2 for mean in means.values())
    assert (done.pairs, done.dropped) == (22 - unlikely, {"implausible": unlikely})
    assert done.tokens == whole.tokens  # they were computed
    table = ReferenceTable(str(tmp_path / "reference"))
    assert len(table) == done.pairs
    assert all(table.logps(n)[1][0] > -2 for n in range(len(table)))
    assert alone.seen[-1] == ReferenceProgress(done=22)
