"""From a YAML file and `--set` overrides to settings, or one sentence about what is wrong."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sphere_ray.config.base import Settings
from sphere_ray.config.documents import parse_yaml, read_document, shown, whereabouts
from sphere_ray.config.run import RunSettings
from sphere_ray.errors import ConfigError
from sphere_ray.untrusted import printable

Kind = TypeVar("Kind", bound=Settings)

_MAX_GROUPS = 16
_MAX_SHOWN_CHARS = 200


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunSettings:
    """Read a YAML file, apply overrides `a.b=VALUE` (VALUE is YAML) and validate the result.

    Raises:
        ConfigError: names the file or override, the field, what is wrong and what to do.
    """
    return load(RunSettings, path, overrides)


def load(kind: type[Kind], path: str | Path, overrides: Sequence[str] = ()) -> Kind:
    """Read a file of another kind of settings, as `load_config` reads those of a run.

    Raises:
        ConfigError: as `load_config`.
    """
    return _validated(kind, read_document(Path(path)), str(path), overrides)


def settings_of(document: dict[str, Any], path: str, overrides: Sequence[str] = ()) -> RunSettings:
    """Apply overrides to a configuration that was read from `path`, and validate it.

    Raises:
        ConfigError: as `load_config`.
    """
    return _validated(RunSettings, document, path, overrides)


def _validated(
    kind: type[Kind], document: dict[str, Any], path: str, overrides: Sequence[str]
) -> Kind:
    for override in overrides:
        _apply(document, override)
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise ConfigError(_sentence(error, kind, document, path, overrides)) from None


def _apply(document: dict[str, Any], override: str) -> None:
    """Set one dotted path; groups that the file leaves out are made, unknown keys fail later."""
    dotted, equals, text = override.partition("=")
    *groups, last = dotted.strip().split(".")
    if not equals or not all([*groups, last]):
        raise ConfigError(
            f"{_origin(override)}: expected KEY=VALUE, e.g. training.learning_rate=1e-5"
        )
    if len(groups) > _MAX_GROUPS:
        raise ConfigError(
            f"{_origin(override)}: the key names {len(groups)} groups, and no setting lies in "
            f"more than {_MAX_GROUPS}; check the key"
        )
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        trouble = whereabouts(error).strip(", :")
        raise ConfigError(
            f"{_origin(override)}: the value is not valid YAML ({trouble}); "
            "quote it, e.g. --set 'name=\"my run\"'"
        ) from None
    target: Any = document
    for depth, part in enumerate(groups):
        key = _key(target, part, override, ".".join(groups[:depth]))
        if isinstance(target, dict) and target.get(part) is None:
            target[part] = {}
        target = target[key]
    target[_key(target, last, override, ".".join(groups))] = value


def _origin(override: str) -> str:
    """An override as messages name it."""
    return f"--set {_cut(override)}"


def _cut(text: str) -> str:
    """Words of strangers as messages show them: on one line, and not all of a long text."""
    dots = "..." if len(text) > _MAX_SHOWN_CHARS else ""
    return f"{printable(text[:_MAX_SHOWN_CHARS])}{dots}"


def _key(target: Any, part: str, override: str, dotted: str) -> str | int:
    """The key or list index that `part` means in `target`, which lies at `dotted`."""
    if isinstance(target, dict):
        return part
    if isinstance(target, list) and re.fullmatch("[0-9]{1,9}", part) and int(part) < len(target):
        return int(part)
    length = f" of {len(target)} entries, counted from 0" if isinstance(target, list) else ""
    raise ConfigError(
        f"{_origin(override)}: {_cut(dotted)} holds {shown(target)}{length}, so '{_cut(part)}' "
        f"cannot be set in it; set {_cut(dotted)} as a whole"
    )


def _sentence(
    error: ValidationError,
    kind: type[Settings],
    document: Mapping[str, Any],
    path: str,
    overrides: Sequence[str],
) -> str:
    """One sentence about the most telling of pydantic's errors, and how many more there are."""
    errors = error.errors(include_url=False)
    # A group of keys was not meant as the word that the field also takes.
    errors = [
        e for e in errors if not (_branch_of(e) and isinstance(e["input"], Mapping))
    ] or errors
    types = [e["type"] for e in errors]
    telling = next((each for each in ("extra_forbidden", "missing") if each in types), types[0])
    first = errors[types.index(telling)]
    dotted = _dotted(first, document)
    origin = next((_origin(o) for o in reversed(overrides) if _concerns(o, dotted)), path)
    others = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return " ".join(f"{origin}: {_explain(first, kind, _cut(dotted))}{others}".split())


def _branch_of(error: ErrorDetails) -> bool:
    """Whether the last part of the error's path is a branch of a union that takes fixed words."""
    return bool(error["loc"]) and str(error["loc"][-1]).startswith("literal[")


def _dotted(error: ErrorDetails, document: Any) -> str:
    """The error's path as the user wrote it, without pydantic's names of union branches."""
    parts: list[str] = []
    here = document
    for part in error["loc"]:
        keys = range(len(here)) if isinstance(here, list) else here
        if part in (keys if isinstance(keys, Mapping | range) else ()):
            here = here[part]
            parts.append(str(part))
    if error["type"] == "missing":
        parts.append(str(error["loc"][-1]))
    return ".".join(parts)


def _concerns(override: str, dotted: str) -> bool:
    """Whether the override set the faulty value, a group around it or a part of it."""
    faulty, name = f"{dotted}.", f"{override.partition('=')[0].strip()}."
    return bool(dotted) and (faulty.startswith(name) or name.startswith(faulty))


def _explain(error: ErrorDetails, kind: type[Settings], dotted: str) -> str:
    match error["type"]:
        case "extra_forbidden":
            return f"{dotted} is not a known key; {_suggestion(error, kind)}"
        case "missing":
            return f"{dotted} is missing; add it"
        case "value_error":
            reason = str(error["ctx"]["error"])
            return f"{dotted}: {reason}" if dotted else reason
        case "model_type" | "dict_type":
            return f"{dotted} must be a group of keys, not {shown(error['input'])}"
        case _:
            demand = error["msg"].partition(" should ")[2] or f"be valid ({error['msg']})"
            return f"{dotted} must {demand}, not {shown(error['input'])}; correct the value"


def _suggestion(error: ErrorDetails, kind: type[Settings]) -> str:
    *group, wrong = error["loc"]
    names = sorted({name for cls in _classes_at(kind, group) for name in cls.model_fields})
    elsewhere = (p for p in _all_paths(kind) if p.rpartition(".")[2] == wrong)
    meant = next(iter(difflib.get_close_matches(str(wrong), names, n=1)), next(elsewhere, None))
    return f"did you mean {meant}?" if meant else f"known here: {', '.join(names)}"


def _classes_at(root: type[Settings], loc: Sequence[int | str]) -> list[type[Settings]]:
    """The parameter classes that may stand at a path of pydantic's, in which unions have parts."""
    classes = [root]
    for part in loc:
        fields = [c.model_fields[str(part)] for c in classes if str(part) in c.model_fields]
        inner = [c for field in fields for c in _settings_in(field.annotation)]
        classes = inner or [c for c in classes if _is_branch(c, part)] or classes
    return classes


def _is_branch(cls: type[Settings], part: int | str) -> bool:
    """Whether a union calls this class `part`: by its name, or by its `kind`."""
    kind = cls.model_fields.get("kind")
    return part == cls.__name__ or (kind is not None and part in get_args(kind.annotation))


def _settings_in(annotation: Any) -> Iterator[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for argument in get_args(annotation):
        yield from _settings_in(argument)


def _all_paths(cls: type[Settings], prefix: str = "") -> Iterator[str]:
    for name, field in cls.model_fields.items():
        yield f"{prefix}{name}"
        for inner in _settings_in(field.annotation):
            yield from _all_paths(inner, f"{prefix}{name}.")
