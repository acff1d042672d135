"""The weights of a model directory, one at a time: a model of 72B is never in memory whole."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sphere_ray.models.directory import weight_files

SHARD_BYTES = 4 << 30
"""Size of a file of weights, and so what writing them holds in memory, about."""


class StoredWeights:
    """The weights in a directory by name; `names` are those of its safetensors.

    Where a name is not in such files (other formats, names of earlier versions), the model is
    loaded whole to find it.
    """

    def __init__(self, directory: str, load: Callable[[], nn.Module]) -> None:
        """Open the files; `load` loads the model."""
        self._load, self._stack = load, ExitStack()
        self._files: dict[str, Any] = {}
        for path in weight_files(Path(directory)):
            if path.suffix == ".safetensors":
                file = self._stack.enter_context(safe_open(path, framework="pt"))
                self._files |= dict.fromkeys(file.keys(), file)

    def __getitem__(self, name: str) -> Tensor:
        """Read a weight.

        Raises:
            KeyError: the model has no such weight.
        """
        file = self._files.get(name)
        found: Tensor = self._whole[name] if file is None else file.get_tensor(name)
        return found

    def names(self) -> Iterable[str]:
        """Names of all weights; tied ones once."""
        return self._files or self._whole

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    @cached_property
    def _whole(self) -> Mapping[str, Tensor]:
        parameters = self._load().named_parameters()
        return {name: parameter.detach() for name, parameter in parameters}


def write_weights(
    weights: Iterable[tuple[str, Tensor]], directory: Path, *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write weights as they come, in files of about `shard_bytes` with an index, or in one file.

    These are the names and the index by which transformers and vLLM find them.
    """
    shards: list[list[str]] = []
    total = 0
    for number, shard in enumerate(_shards(weights, shard_bytes)):
        save_file(shard, directory / f"{number}.partial", metadata={"format": "pt"})
        total += sum(tensor.nbytes for tensor in shard.values())
        shards.append(list(shard))
        shard.clear()
    names: dict[str, str] = {}
    for number, held in enumerate(shards):
        name = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        name = "model.safetensors" if len(shards) == 1 else name
        (directory / f"{number}.partial").rename(directory / name)
        names |= dict.fromkeys(held, name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": names}
        text = json.dumps(index, indent=2, sort_keys=True)
        (directory / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _shards(weights: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    room = shard_bytes
    for name, tensor in weights:
        if shard and tensor.nbytes > room:
            yield shard
            shard, room = {}, shard_bytes
        shard[name] = tensor.contiguous()
        room -= tensor.nbytes
    if shard:
        yield shard
