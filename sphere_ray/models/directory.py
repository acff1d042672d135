"""A model's directory: which of its files hold the model, and what another one takes from it."""

import json
import os
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from sphere_ray.errors import ModelError

_KEPT = {".json", ".jinja", ".model", ".txt", ".tiktoken", ".py", ".md"}
_LICENCES = ("LICEN", "NOTICE", "USE_POLICY")
_OF_WEIGHTS = ("index.json", "adapter_config.json", "quantize_config.json", "quant_config.json")
"""How names of files end that describe weights: those of another model here."""


def weight_files(directory: Path) -> list[Path]:
    """The files that transformers loads a model from: one, or an index and the shards it names.

    Shards need not be there. None are named where there is neither such a file nor an index.

    Raises:
        ModelError: the index is damaged.
    """
    for stem in ("model.safetensors", "pytorch_model.bin"):
        index = directory / f"{stem}.index.json"
        if (directory / stem).is_file():
            return [directory / stem]
        if index.is_file():
            try:
                shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
                return [index, *(directory / str(shard) for shard in sorted(shards))]
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                raise ModelError(
                    f"{index} is no index of the shards of a model; copy the model again"
                ) from None
    return []


def copy_others(source_dir: str, target: Path, *, but: Set[str] = frozenset()) -> None:
    """Copy tokenizer, settings and licence of a model directory byte by byte, and nothing else.

    Weights in other formats, adapters and what describes them would be those of another model.
    """
    for file in Path(source_dir).iterdir():
        kept = file.suffix in _KEPT or file.name.upper().startswith(_LICENCES)
        if file.is_file() and kept and not file.name.endswith(_OF_WEIGHTS) and file.name not in but:
            shutil.copyfile(file, target / file.name)


@contextmanager
def new_directory(path: str) -> Iterator[Path]:
    """A directory to fill, which appears under its name when the block ends without an error.

    After an error nothing is left of it.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
