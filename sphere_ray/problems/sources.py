"""Which reader serves which problem URI; and the reader of the Hugging Face hub."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sphere_ray.config.method import PromptSettings
from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems.files import read_file
from sphere_ray.problems.generated import generate_problems, parse_generated
from sphere_ray.problems.rows import COLUMN_OPTIONS, Columns, RawRow, parse_options
from sphere_ray.redaction import is_redacted

_HUB_OPTIONS = (*COLUMN_OPTIONS, "split", "config")
_DATASET = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_MOVING = ("main", "master", "HEAD")

Load = Callable[..., Iterable[Mapping[str, Any]]]


def reader_for(prompts: PromptSettings) -> Callable[[str], Iterator[RawRow]]:
    """`read_source` for models that these prompts ask: their examples' operands stay out."""
    return partial(read_source, examples=tuple(each.question for each in prompts.examples))


def read_source(uri: str, examples: Collection[str] = ()) -> Iterator[RawRow]:
    """Yield the rows behind `file:`, `hf:` or `generated:`, each with where it came from.

    `file:` and `hf:` take options: `?question=body,question` joins columns, `?answer=a.b` goes into
    one, and `?choices=options` shows choices (`&grade=values` asks for their text, not a letter). A
    web address takes them after `#`.
    No generated word problem has the operands of one of `examples` (questions).

    Raises:
        ProblemSourceError: the source as a whole cannot be read (at the first row or later).
    """
    _refuse_unusable(uri)
    scheme, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    if scheme in ("file", "hf") and not path:
        raise ProblemSourceError(f"{uri} names nothing; write file:PATH or hf:OWNER/NAME@REVISION")
    match scheme:
        case "file":
            if rest.startswith(("http://", "https://")):
                # Here a query belongs to the server, and what follows # never reaches it.
                path, _, query = rest.partition("#")
            yield from read_file(path, Columns.of(uri, parse_options(uri, query, COLUMN_OPTIONS)))
        case "hf":
            options = parse_options(uri, query, _HUB_OPTIONS)
            yield from read_hub(path, options, Columns.of(uri, options))
        case "generated":
            for number, values in enumerate(
                generate_problems(parse_generated(uri), examples), start=1
            ):
                yield RawRow(origin=f"{uri} row {number}", values=values)
        case _:
            raise ProblemSourceError(
                f"problem source {uri!r} has no known scheme; "
                "write file:PATH, hf:OWNER/NAME@REVISION, benchmark:NAME or "
                "generated:NAME?split=train&count=100"
            )


def _refuse_unusable(uri: str) -> None:
    if is_redacted(uri):
        raise ProblemSourceError(
            f"{uri}: the secret of this URL is kept nowhere; name the source again, with its secret"
        )
    if not uri.isascii() and uri.encode("utf-8", "replace").decode("utf-8") != uri:
        raise ProblemSourceError(
            f"problem source {uri!r} has a name that is no Unicode text; rename the file"
        )


def local_file(uri: str) -> Path | None:
    """The file on this machine that a `file:` URI names, if it is there."""
    scheme, _, rest = uri.partition(":")
    path = Path(os.path.expanduser(rest.partition("?")[0]))
    return path if scheme == "file" and path.is_file() else None


def read_hub(
    dataset: str, options: Mapping[str, str], columns: Columns, load: Load | None = None
) -> Iterator[RawRow]:
    """Yield the rows of `OWNER/NAME@REVISION`; options are `split` (train) and `config`.

    Rows are streamed, so a limit downloads no more than it needs. `load` stands in for
    `datasets.load_dataset`.

    Raises:
        ProblemSourceError: no revision, no package `datasets`, or the hub refuses.
    """
    match = _DATASET.fullmatch(dataset)
    if match is None:
        raise ProblemSourceError(
            f"hf:{dataset} is not a hub data set; write hf:OWNER/NAME@REVISION?split=train"
        )
    name, revision = match["name"], match["revision"]
    if revision is None or revision in _MOVING:
        raise ProblemSourceError(
            f"hf:{dataset} has no fixed revision, so a rerun could read other problems; "
            f"add the commit shown on its hub page: hf:{name}@COMMIT"
        )
    split, config = options.get("split", "train"), options.get("config")
    load = load or _load_dataset()
    try:
        rows = load(name, name=config, split=split, revision=revision, streaming=True)
        for number, values in enumerate(rows, start=1):
            if number == 1:
                columns.require(values, f"hf:{dataset}")
            origin = f"hf:{dataset} {split} row {number}"
            yield RawRow(origin=origin, values=values, columns=columns)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ProblemSourceError(
            f"hf:{dataset} (split {split}, config {config}) cannot be read: {reason}; check the "
            "names and the network, or download it and use file:"
        ) from None


def _load_dataset() -> Load:
    try:
        from datasets import load_dataset
    except ImportError:
        raise ProblemSourceError(
            "hf: sources need the package datasets; install it with: pip install 'sphere-ray[hub]'"
        ) from None
    loader: Load = load_dataset
    return loader
