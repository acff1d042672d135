"""The mean of two models' weights, tensor by tensor, without a GPU."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sphere_ray.errors import ModelError
from sphere_ray.training.policy import copy_others, new_directory

_PATTERN = "*.safetensors"
_HEADER_SIZE = 8


def average(start_dir: str, trained_dir: str, output_dir: str) -> None:
    """Write the model halfway between two: (start + trained) / 2, in the trained one's form.

    All files but the weights are the trained one's. Each mean is taken in float32.

    Raises:
        ModelError: the first model lacks a weight of the second, or it has another shape.
    """
    with new_directory(output_dir) as directory, ExitStack() as stack:
        start = _weights(start_dir, stack)
        copy_others(trained_dir, directory)
        for source in sorted(Path(trained_dir).glob("*.index.json")):
            shutil.copyfile(source, directory / source.name)
        for source in sorted(Path(trained_dir).glob(_PATTERN)):
            shutil.copyfile(source, directory / source.name)
            trained = stack.enter_context(safe_open(source, framework="pt"))
            with (directory / source.name).open("r+b") as file:
                for name, offset in _offsets(file).items():
                    weight = trained.get_tensor(name)
                    if weight.is_floating_point():
                        mean = halfway(_same(start, name, weight, start_dir), weight)
                        file.seek(offset)
                        file.write(_bytes(mean))


def halfway(start: Tensor, trained: Tensor) -> Tensor:
    """The mean of two tensors in float32, rounded once to the type of `trained`."""
    return ((start.float() + trained.float()) / 2).to(trained.dtype)


def _weights(directory: str, stack: ExitStack) -> dict[str, Any]:
    """The open file that holds each weight."""
    found: dict[str, Any] = {}
    for path in sorted(Path(directory).glob(_PATTERN)):
        file = stack.enter_context(safe_open(path, framework="pt"))
        found |= dict.fromkeys(file.keys(), file)
    return found


def _same(start: dict[str, Any], name: str, weight: Tensor, directory: str) -> Tensor:
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


def _offsets(file: IO[bytes]) -> dict[str, int]:
    """Where each tensor's bytes begin (https://github.com/huggingface/safetensors, Format)."""
    size = int.from_bytes(file.read(_HEADER_SIZE), "little")
    header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {name: _HEADER_SIZE + size + each["data_offsets"][0] for name, each in header.items()}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
