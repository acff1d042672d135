"""The mean of two models' weights, file by file, without a GPU."""

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sphere_ray.errors import ModelError
from sphere_ray.models.directory import copy_others, new_directory, weight_files
from sphere_ray.training.keeping import rounded

_PATTERN = "*.safetensors"


def average(start_dir: str, trained_dir: str, output_dir: str) -> None:
    """Write the model halfway between two: (start + trained) / 2, in the trained one's form.

    All files but the weights are the trained one's.

    Raises:
        ModelError: the first model lacks a weight of the second, or it has another shape.
    """
    with new_directory(output_dir) as directory, ExitStack() as stack:
        start = _weights(start_dir, stack)
        copy_others(trained_dir, directory)
        for source in sorted(Path(trained_dir).glob("*.index.json")):
            shutil.copyfile(source, directory / source.name)
        for source in sorted(Path(trained_dir).glob(_PATTERN)):
            means = {
                name: halfway(name, _same(start, name, weight, start_dir), weight)
                for name, weight in load_file(source).items()
            }
            save_file(means, directory / source.name, metadata={"format": "pt"})


def halfway(name: str, start: Tensor, trained: Tensor) -> Tensor:
    """The mean of two tensors in float32; bfloat16 is rounded by chance, as training writes it."""
    if not trained.is_floating_point():
        return trained
    mean = (start.float() + trained.float()) / 2
    return rounded(0, name, mean) if trained.dtype == torch.bfloat16 else mean.to(trained.dtype)


def _weights(directory: str, stack: ExitStack) -> dict[str, Any]:
    """The open file that holds each weight."""
    found: dict[str, Any] = {}
    for path in (p for p in weight_files(Path(directory)) if p.match(_PATTERN)):
        file = stack.enter_context(safe_open(path, framework="pt"))
        found |= dict.fromkeys(file.keys(), file)
    return found


def _same(start: Mapping[str, Any], name: str, weight: Tensor, directory: str) -> Tensor:
    try:
        found: Tensor = start[name].get_tensor(name)
    except (KeyError, SafetensorError):
        found = torch.empty(0)
    if found.shape != weight.shape:
        raise ModelError(
            f"{directory} has no weight {name} of shape {tuple(weight.shape)} in safetensors, so "
            "there is no model halfway to the trained one; leave halfway out of "
            "promotion.candidates"
        )
    return found
