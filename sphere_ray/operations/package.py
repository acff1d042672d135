"""The working directory of a job: this package, the configuration, and the files that it names.

Nothing else is sent: no checkout with its history, no environment, no runs, no models.
"""

import importlib.machinery
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sphere_ray.config import RunSettings
from sphere_ray.config.base import leaves
from sphere_ray.errors import ConfigError

CONFIG = "job.yaml"
_HERE = Path(__file__).parents[1]
MAX_MIB = 100
_MIB = 1 << 20
_READ = ("evaluation.benchmark_dir", "method.pairs.audit")
_WRITTEN = ("run_dir", "cache_dir", "directory")
_IMPORTED = ("verifier", "object")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A directory to send: its size in bytes, what of the user's it holds, what it leaves out.

    `elsewhere` are files and modules that the configuration names and the nodes have to have.
    """

    directory: Path
    size: int
    files: tuple[str, ...]
    elsewhere: tuple[str, ...]


def require_sendable(settings: RunSettings, base: Path) -> None:
    """Refuse a configuration that means this machine, because a job runs on another one.

    Raises:
        ConfigError: names the setting, and says what it should be.
    """
    if settings.ray.address != "auto":
        raise ConfigError(
            f"ray.address: {settings.ray.address} would leave the cluster that runs the job; set "
            "ray.address: auto"
        )
    for name, value in _texts(settings):
        last = name.rpartition(".")[2]
        relative = not ("://" in value or value.startswith(("/", "~")))
        if last in _WRITTEN and relative:
            raise ConfigError(
                f"{name}: {value} is relative, and a job works in a directory that Ray removes; "
                f"give a path that all nodes see, for example --set {name}={base / value}"
            )
        if last == "path" and relative and (value.startswith(".") or (base / value).is_dir()):
            raise ConfigError(
                f"{name}: {value} is a relative path, and no models are sent; copy the model to "
                "storage that all nodes see, and give its absolute path"
            )


@contextmanager
def packed(document: Mapping[str, Any], settings: RunSettings, base: Path) -> Iterator[Package]:
    """Make the directory to send, of which nothing stays after the context.

    `document` is the configuration as a mapping, `settings` its checked form, and `base` the
    directory from which its relative paths count.

    Raises:
        ConfigError: a file is not there or lies outside of `base`, or all are too large.
    """
    sources, elsewhere = _sources(settings, base)
    files = tuple(str(place) for place in sources)
    size = sum(_bytes_in(source) for source in sources.values())
    if size > MAX_MIB * _MIB:
        raise ConfigError(
            f"the files that the configuration names ({', '.join(files)}) make {size / _MIB:.0f} "
            f"MiB, and a job may send {MAX_MIB}; copy them to storage that all nodes see, and give "
            "their absolute paths"
        )
    with tempfile.TemporaryDirectory(prefix="sphere-job-") as made:
        target = Path(made)
        _copy(_HERE, target / "sphere_ray")
        for place, source in sources.items():
            _copy(source, target / place)
        text = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)
        (target / CONFIG).write_text(text, encoding="utf-8")
        yield Package(directory=target, size=_bytes_in(target), files=files, elsewhere=elsewhere)


def _sources(settings: RunSettings, base: Path) -> tuple[dict[Path, Path], tuple[str, ...]]:
    """Files and directories to send, by their place in the package; and what is not sent."""
    sources, elsewhere = dict[Path, Path](), []
    for name, path in _named_files(settings):
        if path.startswith(("/", "~")):
            elsewhere.append(path)
            continue
        source = _below(base, name, path)
        sources[source.relative_to(base)] = source
    for module in _modules(settings):
        found = _module_file(module, base)
        if found is None:
            elsewhere.append(f"module {module}")
        else:
            sources[Path(found.name)] = found
    return sources, tuple(elsewhere)


def named_paths(settings: RunSettings) -> dict[str, str]:
    """Paths that the configuration reads, by the name of the setting: files and directories.

    Models by a name of the hub, or made here, are no paths.
    """
    models = {n: v for n, v in _texts(settings) if n.endswith(".path") and v.startswith(("/", "~"))}
    return dict(_named_files(settings)) | models


def _texts(settings: RunSettings) -> Iterator[tuple[str, str]]:
    """Every setting that is a text, by its dotted name; trackers by their number.

    Options of a class of the user's are left out: what they mean is not known here.
    """
    document = settings.model_dump(mode="json")
    document["trackers"] = {str(n): each for n, each in enumerate(document["trackers"])}
    for name, value in leaves(document):
        if isinstance(value, str) and ".options." not in name:
            yield name, value


def _named_files(settings: RunSettings) -> Iterator[tuple[str, str]]:
    for name, value in _texts(settings):
        scheme, _, rest = value.partition(":")
        path = rest.partition("?")[0]
        if name.endswith(".source") and scheme == "file" and "://" not in path:
            yield name, path
        elif name in _READ and "://" not in value:
            yield name, value


def _modules(settings: RunSettings) -> list[str]:
    """Top-level modules of the user's verifier and reward source, each once."""
    named = [v for n, v in _texts(settings) if n.rpartition(".")[2] in _IMPORTED and ":" in v]
    return list(dict.fromkeys(each.partition(":")[0].partition(".")[0] for each in named))


def _module_file(module: str, base: Path) -> Path | None:
    """The file or package of a module of the user's own; None if it is installed, or not here."""
    spec = importlib.machinery.PathFinder.find_spec(module, [str(base), *sys.path])
    if spec is None or spec.origin is None or module == "sphere_ray":
        return None
    origin = Path(spec.origin)
    installed = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"))
    if any(origin.is_relative_to(place) for place in installed):
        return None
    return origin.parent if spec.submodule_search_locations else origin


def _below(base: Path, name: str, path: str) -> Path:
    source = Path(os.path.normpath(base / path))
    if not source.is_relative_to(base):
        raise ConfigError(
            f"{name}: {path} lies outside of {base}, and only what is below is sent; give an "
            "absolute path that all nodes see, or submit from a directory above it"
        )
    if not source.exists():
        raise ConfigError(f"{name}: {source} does not exist; correct the path")
    return source


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        junk = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
        shutil.copytree(source, target, ignore=junk, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def _bytes_in(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())
