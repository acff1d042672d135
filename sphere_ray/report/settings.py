"""Which settings of a run differ from their defaults, and which differ between runs."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

from pydantic_core import PydanticUndefined

from sphere_ray.config import RunSettings
from sphere_ray.config.base import Settings, dump, leaves

_SHOWN_ELSEWHERE = {"name", "run_dir"}
_MAX_CHARS = 200


class Changed(TypedDict):
    """A setting by its dotted name, its default (null where it must be given), and its value."""

    name: str
    default: str | None
    value: str


def changed_settings(settings: RunSettings) -> list[Changed]:
    """Every setting that has no default, or another value; secrets in URLs are hidden."""
    hidden = RunSettings.model_validate(dump(settings))
    return [
        each
        for each in _changes(hidden, None, "")
        if each["name"].partition(".")[0] not in _SHOWN_ELSEWHERE
    ]


def differing_settings(settings: Sequence[RunSettings]) -> list[tuple[str, list[str]]]:
    """Each setting in which runs differ, with its value in every run."""
    flat = [{name: _text(value) for name, value in leaves(dump(each))} for each in settings]
    names = dict.fromkeys(name for each in flat for name in each)
    found = [(name, [each.get(name, "-") for each in flat]) for name in names]
    return [
        (name, values)
        for name, values in found
        if len(set(values)) > 1 and name not in _SHOWN_ELSEWHERE
    ]


def _changes(settings: Settings, defaults: Settings | None, prefix: str) -> Iterator[Changed]:
    for name, info in type(settings).model_fields.items():
        value, default = getattr(settings, name), info.get_default(call_default_factory=True)
        if defaults is not None:
            default = getattr(defaults, name)
        if isinstance(value, Settings):
            # A group of another kind than the default's is compared with the defaults of its own.
            same = default if type(default) is type(value) else None
            yield from _changes(value, same, f"{prefix}{name}.")
        elif default is PydanticUndefined:
            yield {"name": f"{prefix}{name}", "default": None, "value": _text(value)}
        elif value != default:
            yield {"name": f"{prefix}{name}", "default": _text(default), "value": _text(value)}


def _text(value: Any) -> str:
    """A value as people write it in YAML, cut where it is long."""
    plain = (
        [each.model_dump(mode="json") if isinstance(each, Settings) else each for each in value]
        if isinstance(value, tuple | list)
        else value
    )
    # Quotes show what is blank.
    bare = isinstance(plain, str) and plain.strip() == plain != ""
    text = str(plain) if bare else json.dumps(plain, ensure_ascii=False)
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}..."
