"""The reference table: token ids of every pair and their log-probs under the frozen reference.

Each worker writes a part of it, piece by piece. A reader maps the parts into memory and holds only
the order of the pairs and their lengths, 16 bytes a pair.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sphere_ray.training.batches import Indices
from sphere_ray.trees.pairs import EncodedPair

# Offsets of 64 bits: a table may hold more than 2^31 token ids.
_IDS = pa.large_list(pa.int32())
_LOGPS = pa.large_list(pa.float32())
SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt_ids", _IDS),
        ("chosen_ids", _IDS),
        ("rejected_ids", _IDS),
        ("chosen_logps", _LOGPS),
        ("rejected_logps", _LOGPS),
    ]
)

Logps = tuple[Sequence[float], Sequence[float]]
Append = Callable[[Sequence[EncodedPair], Sequence[Logps]], None]


def part_path(directory: str, rank: int) -> Path:
    """Where a worker writes its part."""
    return Path(directory) / f"part-{rank:05d}.arrow"


@contextmanager
def new_part(path: Path) -> Iterator[Append]:
    """Write one part: each call appends pairs. The part appears by rename at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".partial")
    with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        yield lambda pairs, logps: writer.write_batch(_batch(pairs, logps))
    unfinished.replace(path)


def _batch(pairs: Sequence[EncodedPair], logps: Sequence[Logps]) -> pa.RecordBatch:
    columns = [
        [pair.pair_id for pair in pairs],
        [pair.prompt_ids for pair in pairs],
        [pair.chosen_ids for pair in pairs],
        [pair.rejected_ids for pair in pairs],
        [chosen for chosen, _ in logps],
        [rejected for _, rejected in logps],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


class ReferenceTable:
    """All pairs in the order of their ids, whichever worker wrote them."""

    def __init__(self, path: str) -> None:
        """Map every part under `path` into memory."""
        files = sorted(Path(path).glob("part-*.arrow"))
        parts = [pa.ipc.open_file(pa.memory_map(str(file))) for file in files]
        # Getting a batch of a mapped file copies nothing; holding many of them costs memory.
        self._batches = [
            partial(part.get_batch, number)
            for part in parts
            for number in range(part.num_record_batches)
        ]
        sizes = [get().num_rows for get in self._batches]
        self._starts: Indices = np.cumsum([0, *sizes], dtype=np.int64)
        ids = pa.chunked_array([get()["pair_id"] for get in self._batches], pa.string())
        self._order: Indices = pc.sort_indices(ids).to_numpy().astype(np.int64)
        tokens = [np.empty(0, np.int64), *(_tokens(get()) for get in self._batches)]
        self._tokens: Indices = np.concatenate(tokens)[self._order]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._order)

    def tokens(self) -> Indices:
        """Tokens of both rows of each pair (`EncodedPair.tokens`), [number of pairs]."""
        return self._tokens

    def pair(self, index: int) -> EncodedPair:
        """Token ids of one pair."""
        batch, row = self._row(index)
        prompt, chosen, rejected = (_values(batch, name, row) for name in SCHEMA.names[1:4])
        return EncodedPair(
            pair_id=batch["pair_id"][row].as_py(),
            prompt_ids=prompt,
            chosen_ids=chosen,
            rejected_ids=rejected,
        )

    def logps(self, index: int) -> Logps:
        """Reference log-probs of the chosen and the rejected tokens of one pair."""
        batch, row = self._row(index)
        return _values(batch, "chosen_logps", row), _values(batch, "rejected_logps", row)

    def _row(self, index: int) -> tuple[pa.RecordBatch, int]:
        position = self._order[index]
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        return self._batches[number](), int(position - self._starts[number])


def _tokens(batch: pa.RecordBatch) -> Indices:
    prompt, chosen, rejected = (
        batch[name].value_lengths().to_numpy() for name in SCHEMA.names[1:4]
    )
    tokens: Indices = 2 * prompt + chosen + rejected
    return tokens


def _values(batch: pa.RecordBatch, name: str, row: int) -> Any:
    return batch[name][row].values.to_numpy()
