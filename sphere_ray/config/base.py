"""The base of every parameter class, and which parameters decide what a run makes."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from sphere_ray.redaction import redact


class Placement:
    """Marks a field that says where, how fast or how patiently work is done, never what comes out.

    Write `workers: Annotated[int, Placement] = 2`. Results stay valid when such a field changes.
    """


class Settings(BaseModel):
    """A frozen group of parameters; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def dump(settings: Settings) -> dict[str, Any]:
    """The resolved parameters as plain JSON data, as written to config.json.

    Secrets in URLs are hidden: whoever reads the file again cannot open those URLs.
    """
    return {name: _redacted(value) for name, value in settings.model_dump(mode="json").items()}


def identity(**groups: Any) -> dict[str, Any]:
    """Flatten groups of settings (or plain values) to `dotted.name: JSON value`, without placement.

    `identity(seed=1, search=settings.method.search)` gives `{"seed": 1, "search.max_depth": 16}`
    and so on. Secrets in URLs are hidden, so that another signature makes nothing anew.
    """
    return {
        f"{name}{path}": _redacted(value)
        for name, group in groups.items()
        for path, value in _decisive_leaves(group)
    }


def leaves(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted name; an empty mapping is a value."""
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One line per name whose value differs: `training.learning_rate: 3e-05 there, 1e-05 here`."""
    names = [*here, *(name for name in there if name not in here)]
    return [
        f"{name}: {_shown(there, name)} there, {_shown(here, name)} here"
        for name in names
        if (name in there) != (name in here) or there.get(name) != here.get(name)
    ]


def _decisive_leaves(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Settings):
        fields = type(value).model_fields.items()
        items = {n: getattr(value, n) for n, field in fields if Placement not in field.metadata}
    elif isinstance(value, Mapping):
        items = dict(value)
    elif isinstance(value, list | tuple):
        items = {str(index): each for index, each in enumerate(value)}
    else:
        yield "", value
        return
    for name, inner in items.items():
        yield from ((f".{name}{path}", leaf) for path, leaf in _decisive_leaves(inner))


def _redacted(value: Any) -> Any:
    match value:
        case str():
            return redact(value)
        case dict():
            return {name: _redacted(inner) for name, inner in value.items()}
        case list():
            return [_redacted(inner) for inner in value]
        case _:
            return value


def _shown(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "absent"
    text = repr(values[name])
    return text if len(text) <= 80 else f"{text[:50]}...{text[-20:]}"
