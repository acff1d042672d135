"""Preference pairs about nothing, learnable by a tiny random model."""

import random
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


def write_pairs(path: Path, count: int) -> str:
    pq.write_table(to_table(make_pairs(count), PreferencePair), path)
    return str(path)
