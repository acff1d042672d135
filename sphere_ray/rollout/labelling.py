"""Labels of a reward model: recorded steps become labelled ones, and scores of them are judged."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sphere_ray import storage
from sphere_ray.method.audit import NOTHING, Audit, corrected
from sphere_ray.records import LabelledStep
from sphere_ray.reward.labels import labelled_steps, split_by_problem
from sphere_ray.reward.quality import quality, shape_scores
from sphere_ray.rollout.shards import (
    ShardWriter,
    in_tasks,
    part,
    small_tables,
)
from sphere_ray.rollout.stages import rollouts_of
from sphere_ray.schema import from_table, to_table

TRAIN, HELD_OUT = "train", "held_out"
BASELINE_STEPS = 20_000
"""Training steps that the baseline is fitted on; its few weights need no more."""
JUDGED_STEPS = 100_000
"""Held-out steps that the figures are counted from; more would not fit beside the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """Labelled steps to train on, and those of the problems that are held out."""

    train: int
    held_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A file of rollouts to label, and how."""

    file: str
    trained: bool
    output: str
    index: int
    share: float
    seed: int
    audit: Audit


def label(
    rollouts: Sequence[tuple[str, bool]],
    output: str,
    *,
    share: float,
    seed: int,
    audit: Audit = NOTHING,
) -> LabelCounts:
    """Write every step with a label as files of `output/train` and `output/held_out`.

    `rollouts` are directories of rollout files, each with whether the trained reward model scored
    them. Verdicts that people corrected in an `audit` count in the values of steps. About `share`
    of the problems are held out, the same ones for the same `seed`.

    Raises:
        EngineError: a task failed for a reason outside of it.
    """
    for split in (TRAIN, HELD_OUT):
        storage.remove(f"{output}/{split}")
    files = [
        (file, trained) for directory, trained in rollouts for file in storage.data_files(directory)
    ]
    counts = in_tasks(
        _label_file,
        [
            _Job(
                file=file,
                trained=trained,
                output=output,
                index=index,
                share=share,
                seed=seed,
                audit=audit,
            )
            for index, (file, trained) in enumerate(files)
        ],
        output,
    )
    return LabelCounts(
        train=sum(train for train, _ in counts), held_out=sum(held for _, held in counts)
    )


def judged(directory: str, scores_path: str) -> dict[str, Any]:
    """Figures on the held-out steps that have a score, among the first `JUDGED_STEPS`.

    `directory` holds what `label` wrote; `scores_path` a column `score` for the held-out steps.
    """
    train = list(islice(_labels(f"{directory}/{TRAIN}"), BASELINE_STEPS))
    scores = (s for table in storage.tables(scores_path) for s in table["score"].to_pylist())
    both = zip(_labels(f"{directory}/{HELD_OUT}"), scores, strict=True)
    scored = [(step, score) for step, score in islice(both, JUDGED_STEPS) if score is not None]
    if not scored:
        return {"held_out": None, "refusal": "no held-out step could be scored"}
    steps, given = [step for step, _ in scored], [score for _, score in scored]
    figures = quality(steps, given, baseline=shape_scores(train, steps))
    return {"held_out": figures, "refusal": None}


def _labels(directory: str) -> Iterable[LabelledStep]:
    for table in storage.tables(directory):
        yield from from_table(table, LabelledStep)


def _label_file(job: _Job) -> tuple[int, int]:
    with (
        ShardWriter(part(f"{job.output}/{TRAIN}", job.index)) as train,
        ShardWriter(part(f"{job.output}/{HELD_OUT}", job.index)) as held_out,
    ):
        for table in small_tables(job.file):
            rollouts = [corrected(each, job.audit)[0] for each in rollouts_of(table)]
            steps = [s for each in rollouts for s in labelled_steps(each, trained=job.trained)]
            halves = split_by_problem(steps, share=job.share, seed=job.seed)
            for writer, half in zip((train, held_out), halves, strict=True):
                writer.write(to_table(half, LabelledStep))
        return train.rows, held_out.rows
