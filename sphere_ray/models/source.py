"""From the `path` of a model's settings to something vLLM and transformers can load.

Owns names, checks and the local cache of made models. Must not load weights: what makes
models (`embedded`, `tiny`) is imported when such a model is first asked for.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from sphere_ray.config.models import ModelSettings
from sphere_ray.errors import ModelError
from sphere_ray.models.directory import weight_files
from sphere_ray.untrusted import read_bounded

MADE = {
    "embedded:smollm2-135m-instruct": "embedded",
    "tiny:llama": "tiny",
    "tiny:guesser": "tiny_guesser",
    "tiny:qwen2": "tiny",
    "tiny:qwen2-prm": "tiny",
}
"""Models that are made here once, and the module of this room that makes them."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
CONTENT_SUFFIXES = frozenset({".json", ".jinja", ".model", ".txt", ".safetensors", ".bin"})
FINGERPRINT_FILE = "FINGERPRINT"
REMEMBERED = "fingerprints.json"
SETTLED_S = 10.0
_MAX_CONFIG_BYTES = 16 << 20
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Names in a config.json that say that a model is a mixture of experts."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)


def models_dir() -> Path:
    """Where made models are kept: `$SPHERE_MODELS`, else the user's cache directory."""
    chosen = os.environ.get("SPHERE_MODELS")
    if chosen:
        return Path(chosen).expanduser().resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().resolve() / "sphere_ray" / "models"


def resolve_model(settings: ModelSettings, cache_dir: Path | None = None) -> str:
    """Return the absolute directory of a model.

    An `embedded:` or `tiny:` model is made in `cache_dir` (default `models_dir()`) on first use;
    a hub model is downloaded to the Hugging Face cache, which all nodes have to share (`HF_HOME`).

    Raises:
        ModelError: there is no such model, or its directory lacks something.
    """
    path = settings.path
    if path.startswith(("embedded:", "tiny:")):
        return str(_made_model(path, cache_dir or models_dir()))
    directory = Path(os.path.expanduser(path))
    if os.path.exists(directory) or path.startswith((".", "/", "~")):
        check_directory(directory)
        return str(directory.resolve())
    if not _HUB_NAME.fullmatch(path):
        raise ModelError(
            f"model {path} is neither a directory, nor a hub name (OWNER/NAME), nor one of "
            f"{', '.join(MADE)}"
        )
    directory = _from_hub(path, settings.revision)
    check_directory(directory)
    return str(directory)


def check_directory(directory: Path) -> None:
    """Check that a directory holds a configuration, whole weights and a tokenizer.

    Raises:
        ModelError: naming what is missing.
    """
    if not os.path.isdir(directory):
        raise ModelError(f"model directory {directory} does not exist; correct the path")
    config = directory / "config.json"
    try:
        if not isinstance(json.loads(read_bounded(config, _MAX_CONFIG_BYTES)), dict):
            raise ValueError("it is no object")
    except FileNotFoundError as error:
        raise ModelError(
            f"model directory {directory} has no config.json; name a directory that transformers "
            "can load"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{config} is not valid JSON ({error}); copy the model again") from error
    missing = _missing_weights(directory)
    if missing:
        raise ModelError(
            f"model directory {directory} lacks its weights ({missing}); copy the model again"
        )
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"model directory {directory} has no tokenizer ({', '.join(TOKENIZER_FILES)}); copy "
            "the tokenizer of its base model there"
        )


def require_dense(directory: str) -> None:
    """Check that a model can be trained: all of its weights meet every token.

    Raises:
        ModelError: it is a mixture of experts.
    """
    config = json.loads(read_bounded(Path(directory) / "config.json", _MAX_CONFIG_BYTES))
    if experts := next((f"{name}: {config[name]}" for name in _EXPERTS if config.get(name)), None):
        raise ModelError(
            f"the model in {directory} is a mixture of experts ({experts}), and training has been "
            "tried with dense models only; name a dense one"
        )


def open_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json, without its chat template.

    Raises:
        ModelError: the file is damaged.
    """
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library has no errors of its own
        raise ModelError(f"{file} is no tokenizer ({error}); copy the model again") from error


def model_fingerprint(path: str) -> str:
    """Identity of the content of a model directory: 16 hex digits.

    All of it is hashed (about 1 GB/s): after DPO with a small learning rate most bf16 weights are
    bit-equal to the parent's, so samples of them could not tell the two apart. The result is
    remembered for a directory whose files keep their names, sizes and times of change.
    """
    files = content_files(Path(path))
    state = _state(files)
    place, known = str(Path(path).resolve()), _remembered()
    if known.get(place, {}).get("state") == state:
        return str(known[place]["fingerprint"])
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(f"{file.name}:{file.stat().st_size}:".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "blake2b").digest())
    fingerprint = digest.hexdigest()
    # A file that changes again within a tick of the filesystem's clock would look unchanged.
    newest = max((file.stat().st_mtime for file in files), default=0.0)
    if state == _state(files) and time.time() - newest > SETTLED_S:
        _remember(place, {"state": state, "fingerprint": fingerprint})
    return fingerprint


def content_files(directory: Path) -> list[Path]:
    """The files that a model consists of, by name."""
    return [
        file
        for file in sorted(directory.iterdir())
        if file.is_file() and file.suffix in CONTENT_SUFFIXES
    ]


def _state(files: Iterable[Path]) -> list[list[str | int]]:
    """What shows whether files have changed, without reading them."""
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _remembered() -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads((models_dir() / REMEMBERED).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known


def _remember(place: str, entry: Mapping[str, Any]) -> None:
    """Add a fingerprint to the file; it is only a saving, so that it may fail."""
    with suppress(OSError):
        models_dir().mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=models_dir(), delete=False) as file:
            json.dump(_remembered() | {place: entry}, file)
        Path(file.name).replace(models_dir() / REMEMBERED)


def _from_hub(name: str, revision: str | None) -> Path:
    """Download what loading needs of a hub model, or find it in the cache."""
    # These cost every actor of a stage, which loads no model, half a second and 12 MiB.
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=[f"*{s}" for s in CONTENT_SUFFIXES]
            )
        )
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model {name} at {revision or 'main'} is neither in the local Hugging Face cache nor "
            f"to be had from the hub ({reason}); correct the name, or name a directory"
        ) from error


def _missing_weights(directory: Path) -> str:
    """Name what is missing of the weights, or return an empty string."""
    files = weight_files(directory)
    if not files:
        return "model.safetensors or pytorch_model.bin, or an index of shards"
    return ", ".join(file.name for file in files if not file.is_file())


def _made_model(name: str, cache_dir: Path) -> Path:
    if name not in MADE:
        raise ModelError(f"model {name} is unknown; there are {', '.join(MADE)}")
    # The recipe is part of the name, so a change of code never serves an old model.
    code = Path(__file__).with_name(f"{MADE[name]}.py").read_bytes()
    recipe = hashlib.blake2b(code, digest_size=4).hexdigest()
    directory = cache_dir / f"{name.replace(':', '-')}-{recipe}"
    if not directory.exists():
        _fill(directory, _recipe(name))
    stored = directory / FINGERPRINT_FILE
    if not stored.is_file() or stored.read_text(encoding="ascii") != model_fingerprint(
        str(directory)
    ):
        raise ModelError(f"model directory {directory} is damaged; remove it and run again")
    return directory


def _recipe(name: str) -> Callable[[Path], None]:
    """The function that fills a directory with a made model."""
    if name.startswith("embedded:"):
        from sphere_ray.models.embedded import convert_smollm2

        return convert_smollm2
    if name == "tiny:guesser":
        from sphere_ray.models.tiny_guesser import make_guesser

        return make_guesser
    from sphere_ray.models import tiny

    return {
        "tiny:llama": tiny.make_llama,
        "tiny:qwen2": tiny.make_qwen2,
        "tiny:qwen2-prm": tiny.make_qwen2_prm,
    }[name]


@contextmanager
def quietly() -> Iterator[None]:
    """Standard error is for sentences to the user: transformers must not draw or report on it."""
    from transformers.utils import logging as bars

    shown, verbosity = bars.is_progress_bar_enabled(), bars.get_verbosity()
    bars.disable_progress_bar()
    bars.set_verbosity_error()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
        bars.set_verbosity(verbosity)


def _fill(directory: Path, make: Callable[[Path], None]) -> None:
    """Make a model beside its place and rename it: others see all of it or nothing."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        with quietly():
            make(building)
        (building / FINGERPRINT_FILE).write_text(model_fingerprint(str(building)), "ascii")
        building.chmod(0o755)
        try:
            building.rename(directory)
        except OSError:
            # Another process was faster; its model is the same one.
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
