"""From a YAML file and `--set` overrides to `RunSettings`, or one sentence about what is wrong."""

import difflib
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sphere_ray.config.base import Settings
from sphere_ray.config.run import RunSettings
from sphere_ray.errors import ConfigError

_MOST_TELLING_FIRST = ("extra_forbidden", "missing")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunSettings:
    """Read a YAML file, apply overrides `a.b=VALUE` (VALUE is YAML) and validate the result.

    Raises:
        ConfigError: names the file or override, the field, what is wrong and what to do.
    """
    return settings_of(_read_document(Path(path)), str(path), overrides)


def settings_of(document: dict[str, Any], path: str, overrides: Sequence[str] = ()) -> RunSettings:
    """Apply overrides to a configuration that was read from `path`, and validate it.

    Raises:
        ConfigError: as `load_config`.
    """
    for override in overrides:
        _apply(document, override)
    try:
        return RunSettings.model_validate(document)
    except ValidationError as error:
        raise ConfigError(_sentence(error, document, path, overrides)) from None


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key may appear once only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping; plain YAML would keep the last of two equal keys in silence."""
        seen = set()
        for key in (k for k, _ in node.value if isinstance(k, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key.value}' appears twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = _parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"configuration file {path} does not exist; check the path (examples: jobs/configs)"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"configuration file {path} cannot be read: {error.strerror}; give a readable YAML file"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"configuration file {path} is not UTF-8 text; save it as UTF-8"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_where(error)}; correct the YAML there") from None
    if not isinstance(document, dict):
        raise ConfigError(
            f"{path}: a configuration is a mapping of keys to values, "
            f"but this file holds {_kind(document)}; see jobs/configs for examples"
        )
    return document


def _parse_yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except ValueError as error:  # e.g. 2024-13-01, which looks like a date
        raise yaml.YAMLError(str(error)) from None


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    position = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{position}: {problem}"


def _apply(document: dict[str, Any], override: str) -> None:
    """Set one dotted path; groups that the file leaves out are made, unknown keys fail later."""
    dotted, equals, text = override.partition("=")
    parts = dotted.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: expected KEY=VALUE, e.g. training.learning_rate=1e-5")
    try:
        value = _parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {override}: the value is not valid YAML ({_where(error).strip(', :')}); "
            "quote it, e.g. --set 'name=\"my run\"'"
        ) from None
    target: Any = document
    for i, part in enumerate(parts[:-1]):
        key = _key(target, part, override, ".".join(parts[:i]))
        if isinstance(target, dict) and target.get(part) is None:
            target[part] = {}
        target = target[key]
    target[_key(target, parts[-1], override, ".".join(parts[:-1]))] = value


def _key(target: Any, part: str, override: str, dotted: str) -> str | int:
    """The key or list index `part` means in `target`."""
    if isinstance(target, dict):
        return part
    if isinstance(target, list):
        if part.isdecimal() and int(part) < len(target):
            return int(part)
        raise ConfigError(
            f"--set {override}: '{part}' is no position in {dotted}, "
            f"which has {len(target)} entries counted from 0"
        )
    raise ConfigError(
        f"--set {override}: {dotted} holds {_kind(target)}, so nothing can be set below it; "
        f"set {dotted} as a whole"
    )


def _sentence(
    error: ValidationError, document: Mapping[str, Any], path: str, overrides: Sequence[str]
) -> str:
    errors = _of_chosen_branches(error.errors(include_url=False))
    first = min(errors, key=_rank)
    dotted = _dotted(first, document)
    source = next((f"--set {o}" for o in reversed(overrides) if _concerns(o, dotted)), path)
    others = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{source}: {_explain(first, dotted)}{others}"


def _of_chosen_branches(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without the complaints of union branches that the input clearly did not mean."""
    kept = [
        e
        for e in errors
        if not (
            isinstance(e["input"], Mapping)
            and e["loc"]
            and str(e["loc"][-1]).startswith("literal[")
        )
    ]
    return kept or errors


def _rank(error: ErrorDetails) -> int:
    kind = error["type"]
    return _MOST_TELLING_FIRST.index(kind) if kind in _MOST_TELLING_FIRST else 9


def _dotted(error: ErrorDetails, document: Any) -> str:
    """The error's place as the user wrote it: pydantic adds the names of union branches."""
    parts: list[str] = []
    here = document
    for part in error["loc"]:
        if part in _keys(here):
            here = here[part]
        elif error["type"] != "missing" or part != error["loc"][-1]:
            continue
        parts.append(str(part))
    return ".".join(parts)


def _keys(value: Any) -> Collection[Any]:
    if isinstance(value, list):
        return range(len(value))
    return value.keys() if isinstance(value, Mapping) else ()


def _concerns(override: str, dotted: str) -> bool:
    """Whether the override set the faulty value, a group around it or a part of it."""
    place, name = f"{dotted}.", f"{override.partition('=')[0].strip()}."
    return bool(dotted) and (place.startswith(name) or name.startswith(place))


def _explain(error: ErrorDetails, dotted: str) -> str:
    match error["type"]:
        case "extra_forbidden":
            return f"{dotted} is not a known key; {_suggestion(error)}"
        case "missing":
            return f"{dotted} is missing; add it"
        case "value_error":
            reason = str(error["ctx"]["error"])
            return f"{dotted}: {reason}" if dotted else reason
        case "model_type" | "dict_type":
            return f"{dotted} must be a group of keys, not {_kind(error['input'])}"
        case _:
            demand = error["msg"].removeprefix("Input should be ")
            return f"{dotted} must be {demand}, not {_kind(error['input'])}; correct the value"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case dict():
            return "a group of keys"
        case list():
            return "a list"
        case _:
            return repr(value)


def _suggestion(error: ErrorDetails) -> str:
    wrong = str(error["loc"][-1])
    classes = _classes_at(error["loc"][:-1])
    names = sorted({name for cls in classes for name in cls.model_fields})
    close = difflib.get_close_matches(wrong, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    elsewhere = [p for p in _all_paths(RunSettings) if p.rpartition(".")[2] == wrong]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    return f"known here: {', '.join(names)}"


def _classes_at(loc: Sequence[int | str]) -> list[type[Settings]]:
    """The parameter classes that may stand at a pydantic error location."""
    classes: list[type[Settings]] = [RunSettings]
    for part in loc:
        fields = [c.model_fields[str(part)] for c in classes if str(part) in c.model_fields]
        if fields:
            classes = [c for field in fields for c in _settings_in(field.annotation)]
        else:
            classes = [c for c in classes if part in _branch_names(c)] or classes
    return classes


def _branch_names(cls: type[Settings]) -> tuple[object, ...]:
    kind = cls.model_fields.get("kind")
    return (cls.__name__, *(get_args(kind.annotation) if kind else ()))


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
