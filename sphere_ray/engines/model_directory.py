"""Writing a model directory: it appears whole, and keeps what belongs to the model it came from."""

import os
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ot"}


def copy_others(source_dir: str, target: Path, *, but: Set[str] = frozenset()) -> None:
    """Copy the files of a model directory that hold no weights, byte by byte."""
    for file in Path(source_dir).iterdir():
        if file.is_file() and file.name not in but and not _holds_weights(file):
            shutil.copyfile(file, target / file.name)


@contextmanager
def new_directory(path: str) -> Iterator[Path]:
    """A directory to fill, which appears under its name when the block ends without an error."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)


def _holds_weights(file: Path) -> bool:
    return file.suffix in _WEIGHTS or file.name.endswith((".index.json", "adapter_config.json"))
