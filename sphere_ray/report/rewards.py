"""What the scorer said in a rollout: rewards by stage and depth, siblings' spread, calibration."""

from collections.abc import Iterable
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sphere_ray.records import StageName
from sphere_ray.reporting.columns import outcomes_by_reward, scored_steps
from sphere_ray.reward.process import DEEPEST
from sphere_ray.reward.quality import BINS, ReliabilityBin

Floats = NDArray[np.float64]


class DepthReward(TypedDict):
    """The scored steps of a stage at one `depth`, from 1; `DEEPEST` counts deeper ones too."""

    stage: str
    depth: int
    steps: int
    mean: float


class Spread(TypedDict):
    """Positions at which several siblings were scored, by highest less lowest reward.

    `bins` count them by tenths of the difference, `equal` is the share without any.
    """

    positions: int
    mean: float | None
    equal: float | None
    bins: list[int]


class RewardFacts(TypedDict):
    """The rewards of one rollout.

    `calibration` sorts the steps that chains took (but their last) by tenths of the reward: mean
    reward, and the share of those chains whose answer is right.
    """

    by_depth: list[DepthReward]
    spread: Spread
    calibration: list[ReliabilityBin]


def reward_facts(tables: Iterable[pa.Table]) -> RewardFacts:
    """Count the columns `REWARD_COLUMNS` of rollouts; one table at a time is in memory."""
    stages = tuple(StageName)
    depths = np.zeros((2, len(stages), DEEPEST + 1))
    spreads, equal, total = np.zeros(BINS, dtype=np.int64), 0, 0.0
    bins = np.zeros((3, BINS))
    for table in tables:
        found = scored_steps(table)
        rewards = found.rewards.to_numpy(False)
        index = pc.index_in(found.stages, pa.array(map(str, stages))).to_numpy(False)
        deep = np.minimum(found.depths, DEEPEST)
        np.add.at(depths[0], (index, deep), 1)
        np.add.at(depths[1], (index, deep), rewards)
        differences = _differences(rewards, found.places)
        spreads += np.bincount(_tenth(differences), minlength=BINS)
        equal += int((differences == 0).sum())
        total += float(differences.sum())
        scores, right = outcomes_by_reward(table)
        for row, weights in zip(bins, (None, scores, right), strict=True):
            row += np.bincount(_tenth(scores), weights=weights, minlength=BINS)
    positions = int(spreads.sum())
    return {
        "by_depth": [
            {
                "stage": stage,
                "depth": depth,
                "steps": int(depths[0, number, depth]),
                "mean": float(depths[1, number, depth] / depths[0, number, depth]),
            }
            for number, stage in enumerate(stages)
            for depth in range(1, DEEPEST + 1)
            if depths[0, number, depth]
        ],
        "spread": {
            "positions": positions,
            "mean": total / positions if positions else None,
            "equal": equal / positions if positions else None,
            "bins": spreads.tolist(),
        },
        "calibration": [
            {"steps": int(steps), "score": float(score / steps), "value": float(value / steps)}
            for steps, score, value in bins.T
            if steps
        ],
    }


def _differences(rewards: Floats, places: NDArray[np.int64]) -> Floats:
    """Highest less lowest reward at each position that has several; siblings lie together."""
    if not len(places):
        return np.empty(0)
    _, starts, counts = np.unique(places, return_index=True, return_counts=True)
    found = np.maximum.reduceat(rewards, starts) - np.minimum.reduceat(rewards, starts)
    several: Floats = found[counts > 1]
    return several


def _tenth(values: Floats) -> NDArray[np.int64]:
    tenths: NDArray[np.int64] = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    return tenths
