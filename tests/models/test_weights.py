"""Weights written as they come, with few of them in memory, and read one by one."""

import json
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from sphere_ray.models.tiny import make_llama
from sphere_ray.models.weights import StoredWeights, write_weights

BYTES, COUNT = 4 * 1000, 12


class Living:
    """Tensors made one by one, and how many of them were alive at most."""

    def __init__(self) -> None:
        self._alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self.most = 0

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        for number in range(COUNT):
            tensor = torch.full((BYTES // 4,), float(number))
            self._alive.add(tensor)
            self.most = max(self.most, len(self._alive))
            yield f"layer.{number}", tensor
            del tensor


@pytest.mark.parametrize(("shard", "files"), [(3 * BYTES, 4), (1, COUNT), (COUNT * BYTES, 1)])
def test_a_shard_is_all_that_is_in_memory(tmp_path: Path, shard: int, files: int) -> None:
    living = Living()
    write_weights(living.weights(), tmp_path, shard_bytes=shard)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    assert len(list(tmp_path.iterdir())) == files + (files > 1)
    assert living.most <= max(1, shard // BYTES) + 2
    with closing(StoredWeights(str(tmp_path), nn.Module)) as stored:
        assert sorted(stored.names()) == sorted(f"layer.{number}" for number in range(COUNT))
        for number in range(COUNT):
            assert stored[f"layer.{number}"].unique().tolist() == [number]


def test_transformers_finds_what_is_written_in_shards(tmp_path: Path) -> None:
    make_llama(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    changed = [(name, weight.detach() + 1) for name, weight in model.named_parameters()]
    write_weights(changed, tmp_path, shard_bytes=50_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(weight.nbytes for _, weight in changed)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, weight in changed:
        assert torch.equal(again.get_parameter(name), weight), name


def test_weights_in_other_formats_are_those_of_the_loaded_model(tmp_path: Path) -> None:
    layer = nn.Linear(2, 3)
    torch.save(layer.state_dict(), tmp_path / "pytorch_model.bin")
    with closing(StoredWeights(str(tmp_path), lambda: layer)) as stored:
        assert sorted(stored.names()) == ["bias", "weight"]
        assert torch.equal(stored["weight"], layer.weight)
        with pytest.raises(KeyError):
            stored["other"]
