"""Which reader serves which problem URI."""

from collections.abc import Iterator
from urllib.parse import parse_qsl

from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems.files import read_file
from sphere_ray.problems.generated import generate_problems, parse_generated
from sphere_ray.problems.hub import read_hub
from sphere_ray.problems.rows import RawRow, parse_columns

_COLUMN_OPTIONS = ("question", "answer")
_HUB_OPTIONS = (*_COLUMN_OPTIONS, "split", "config")


def read_source(uri: str) -> Iterator[RawRow]:
    """Yield the rows behind `file:`, `hf:` or `generated:`, each with where it came from.

    Raises:
        ProblemSourceError: the source as a whole cannot be read (at the first row or later).
    """
    scheme, _, rest = uri.partition(":")
    match scheme:
        case "file" if rest.startswith(("http://", "https://")):
            # Here a query belongs to the server.
            yield from read_file(rest, parse_columns({}))
        case "file":
            path, options = _options(uri, rest, _COLUMN_OPTIONS)
            yield from read_file(path, parse_columns(options))
        case "hf":
            dataset, options = _options(uri, rest, _HUB_OPTIONS)
            yield from read_hub(dataset, options, parse_columns(options))
        case "generated":
            yield from _generated(uri)
        case _:
            raise ProblemSourceError(
                f"problem source {uri!r} has no known scheme; "
                "write file:PATH, hf:OWNER/NAME@REVISION or generated:NAME?split=train&count=100"
            )


def _generated(uri: str) -> Iterator[RawRow]:
    for number, values in enumerate(generate_problems(parse_generated(uri)), start=1):
        yield RawRow(origin=f"{uri} row {number}", values=values)


def _options(uri: str, rest: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    path, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in known or not value:
            raise ProblemSourceError(
                f"{uri}: {name}={value} is not understood; known are {', '.join(known)}"
            )
    if not path:
        raise ProblemSourceError(f"{uri} names nothing; write file:PATH or hf:OWNER/NAME@REVISION")
    return path, options
