"""Labelled steps as trees: where problems begin, what is split, what is dropped."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from sphere_ray.config.training import RewardTrainingSettings
from sphere_ray.engines.reward_prompt import RewardPrompt
from sphere_ray.engines.tokens import load_tokenizer
from sphere_ray.models.tiny import make_llama
from sphere_ray.records import LabelledStep
from sphere_ray.schema import to_table
from sphere_ray.training import reward_batches
from sphere_ray.training.reward_batches import LabelledSteps, collate_trees

CPU = torch.device("cpu")


def step(problem: str, text: str, *prefix: str, value: float = 1.0) -> LabelledStep:
    return LabelledStep(
        problem_id=problem,
        question=f"question {problem}",
        prefix=prefix,
        text=text,
        final=False,
        value=value,
        outcomes=4,
        reward=value,
    )


FIRST = [step("a", "one"), step("a", "two", value=0.0), step("a", "three", "one")]
SECOND = [step("b", "four", value=0.5)]
AGAIN = [step("a", "one", value=0.0)]


@pytest.fixture(scope="module")
def prompt(tmp_path_factory: pytest.TempPathFactory) -> RewardPrompt:
    directory: Path = tmp_path_factory.mktemp("model")
    make_llama(directory)
    return RewardPrompt(load_tokenizer(str(directory)), system="s", step_tag=None)


def indexed(root: Path, prompt: RewardPrompt, **changes: Any) -> LabelledSteps:
    for part, steps in enumerate((FIRST + SECOND, AGAIN)):
        path = root / f"part-{part:05d}.parquet"
        pq.write_table(to_table(steps, LabelledStep), path, row_group_size=2)
    return LabelledSteps(str(root), prompt, RewardTrainingSettings(**changes))


def test_an_example_is_a_problem_of_one_rollout(tmp_path: Path, prompt: RewardPrompt) -> None:
    steps = indexed(tmp_path, prompt)
    assert (len(steps), steps.problems) == (3, 2)
    examples = [steps.example(index) for index in range(3)]
    assert [example.rows for example in examples] == [(0, 1, 2), (3,), (4,)]
    assert examples[0].paths[2] == tuple(prompt.ids("question a", ["one", "three"]))


def test_labels_are_balanced_over_the_whole_directory(tmp_path: Path, prompt: RewardPrompt) -> None:
    steps = indexed(tmp_path, prompt)
    first_steps = [
        target
        for index in range(3)
        for path, target in zip(
            steps.example(index).paths, steps.example(index).targets, strict=True
        )
        if path != steps.example(0).paths[2]
    ]
    right = sum(target.weight * target.right for target in first_steps)
    assert right == pytest.approx(sum(target.weight for target in first_steps) / 2)
    plain = indexed(tmp_path, prompt, balance=False)
    assert {target.weight for target in plain.example(0).targets} == {1.0}


def test_a_problem_of_too_many_steps_is_split(
    tmp_path: Path, prompt: RewardPrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for the question and one or two steps.
    monkeypatch.setattr(reward_batches, "TREE_NODES", 9)
    steps = indexed(tmp_path, prompt)
    assert [steps.example(index).rows for index in range(len(steps))] == [(0, 1), (2,), (3,), (4,)]
    assert steps.problems == 2
    assert max(steps.lengths) <= 9


def test_a_step_that_is_too_long_is_dropped_and_counted(
    tmp_path: Path, prompt: RewardPrompt
) -> None:
    fits = max(len(prompt.ids("question a", [text])) for text in ("one", "two"))
    steps = indexed(tmp_path, prompt, max_length=fits)
    example = steps.example(0)
    assert example.rows == (0, 1)
    assert example.dropped == 1


def test_a_forward_of_nothing_weighs_nothing(tmp_path: Path, prompt: RewardPrompt) -> None:
    steps = indexed(tmp_path, prompt, max_length=2)
    nothing = steps.example(0)
    assert (nothing.paths, nothing.dropped) == ((), 3)
    tensors = collate_trees([nothing], [1.0], CPU)
    assert tensors.weights_m.tolist() == [0.0]
    assert (tensors.computed, tensors.tokens) == (1, 0)


def test_a_filler_weighs_nothing_and_its_nodes_are_padding(
    tmp_path: Path, prompt: RewardPrompt
) -> None:
    steps = indexed(tmp_path, prompt)
    alone = collate_trees([steps.example(0)], [1.0], CPU)
    filled = collate_trees([steps.example(0), steps.example(1)], [1.0, 0.0], CPU)
    assert filled.weights_m[:3].tolist() == alone.weights_m.tolist()
    assert filled.weights_m[3:].tolist() == [0.0]
    assert filled.tokens == alone.tokens == alone.computed
    assert filled.computed > alone.computed
