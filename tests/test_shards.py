from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sphere_ray.errors import TrainingError
from sphere_ray.shards import Shards


def write(directory: Path, sizes: list[int], group: int) -> int:
    for old in directory.iterdir():
        old.unlink()
    starts = [sum(sizes[:part]) for part in range(len(sizes) + 1)]
    for part, (start, stop) in enumerate(pairwise(starts)):
        table = pa.table(
            {"n": pa.array(range(start, stop), pa.int64()), "other": ["x"] * (stop - start)}
        )
        pq.write_table(table, directory / f"part-{part:05d}.parquet", row_group_size=group)
    pq.write_table(pa.table({"n": [-1]}), directory / "steps.parquet")  # not a part
    return starts[-1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    group=st.integers(1, 5),
    chunk=st.integers(1, 7),
    world=st.integers(1, 4),
)
def test_the_ranks_read_every_row_once_in_pieces_of_one_size(
    tmp_path: Path, sizes: list[int], group: int, chunk: int, world: int
) -> None:
    count = write(tmp_path, sizes, group)
    shards = Shards(str(tmp_path))
    assert len(shards) == count
    seen: list[int] = []
    for rank in range(world):
        rows = shards.of_rank(rank, world)
        pieces = [table["n"].to_pylist() for table in shards.read(rows, chunk=chunk, columns=["n"])]
        assert all(len(piece) == chunk for piece in pieces[:-1])
        assert all(0 < len(piece) <= chunk for piece in pieces)
        assert len(rows) in {count // world, count // world + 1}
        seen += [number for piece in pieces for number in piece]
    assert seen == list(range(count))


def test_a_directory_without_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no part-"):
        Shards(str(tmp_path))
