"""Problems from data sets on the Hugging Face hub, at a pinned revision."""

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems.rows import Columns, RawRow

_DATASET = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_MOVING = ("main", "master", "HEAD")

Rows = Iterable[Mapping[str, Any]]
Load = Callable[..., Rows]


def read_hub(
    dataset: str, options: Mapping[str, str], columns: Columns, load: Load | None = None
) -> Iterator[RawRow]:
    """Yield the rows of `OWNER/NAME@REVISION`; options are `split` (train) and `config`.

    Rows are streamed: a limit downloads no more than it needs.

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
    load = load or _datasets().load_dataset
    split = options.get("split", "train")
    config = options.get("config")
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


def _datasets() -> Any:
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise ProblemSourceError(
            "hf: sources need the package datasets; install it with: pip install 'sphere-ray[hub]'"
        ) from None
