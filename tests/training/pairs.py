"""Preference pairs about nothing, learnable by a tiny random model."""

import random
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq

from sphere_ray.records import Message, PreferencePair, StageName
from sphere_ray.schema import to_table

WORDS = ("Tom has", "12 apples", "7 days", "so 42", "hours", "15 dollars", "the answer is")


def make_pairs(count: int) -> list[PreferencePair]:
    rng = random.Random(count)

    def text() -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(4, 16)))

    return [
        PreferencePair(
            pair_id=f"pair-{index:03d}",
            problem_id=f"problem-{index:03d}",
            stage=StageName.SELF_GENERATION,
            prompt=(Message(role="user", content=text()),),
            chosen=f"good {text()}",
            rejected=f"bad {text()}",
        )
        for index in range(count)
    ]


def write_pairs(directory: Path, count: int, *, parts: int = 2) -> str:
    """Pairs in several parts of unequal size, beside a file that is none."""
    directory.mkdir(parents=True)
    table = to_table(make_pairs(count), PreferencePair)
    cuts = [0, *sorted(count * part // (parts + 1) for part in range(1, parts)), count]
    for part, (start, stop) in enumerate(pairwise(cuts)):
        rows = table.slice(start, stop - start)
        pq.write_table(rows, directory / f"part-{part:05d}.parquet", row_group_size=5)
    (directory / "manifest.json").write_text("{}")
    return str(directory)
