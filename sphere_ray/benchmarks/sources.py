"""Reads problem sources, with `benchmark:NAME` among them: from the hub, or a local directory."""

from collections.abc import Callable, Iterator
from pathlib import Path

from sphere_ray.benchmarks.named import SCHEME, find
from sphere_ray.config import RunSettings
from sphere_ray.config.problems import SplitSettings
from sphere_ray.errors import ProblemSourceError
from sphere_ray.problems import sources
from sphere_ray.problems.files import read_file
from sphere_ray.problems.ingest import IngestResult, ingest_splits
from sphere_ray.problems.rows import Columns, RawRow, parse_options
from sphere_ray.provenance import file_hash

_ENDINGS = (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz")


def reader_for(settings: RunSettings) -> Callable[[str], Iterator[RawRow]]:
    """Read a source as `problems.sources.read_source` does, or a benchmark by its name."""
    read = sources.reader_for(settings.method.prompts)
    directory = settings.evaluation.benchmark_dir
    return lambda uri: read(resolve(uri, directory))


def read_benchmark(settings: RunSettings, reference: str, limit: int = 0) -> IngestResult:
    """Read the first `limit` problems (0: all) of `NAME[@REVISION]`, as a split of that name.

    Raises:
        ProblemSourceError: there is no such benchmark, or it cannot be read.
    """
    name, _, _ = find(reference)
    split = SplitSettings(source=f"{SCHEME}{reference}", limit=limit)
    return ingest_splits({name: split}, reader_for(settings))


def resolve(uri: str, directory: str | None) -> str:
    """The `hf:` or `file:` URI behind `benchmark:NAME[@REVISION]`; any other URI as it is.

    With a directory, a file in it that is named after the benchmark takes the hub's place.

    Raises:
        ProblemSourceError: there is no such benchmark, or no such file in the directory.
    """
    if not uri.startswith(SCHEME):
        return uri
    name, benchmark, revision = find(uri.removeprefix(SCHEME))
    if directory is None:
        return benchmark.hub_uri(revision)
    if revision is not None:
        raise ProblemSourceError(
            f"{uri} names a revision of the hub, but benchmarks are read from {directory}; leave "
            "out the revision or the directory"
        )
    folder = Path(directory).expanduser()
    files = [folder / f"{name}{ending}" for ending in _ENDINGS]
    there = [file for file in files if file.is_file()]
    if len(there) != 1:
        listed = ", ".join(file.name for file in there or files)
        raise ProblemSourceError(
            f"{uri}: {directory} holds {'several of' if there else 'none of'} {listed}; keep one "
            "of them there, or leave out the directory to read the hub"
        )
    return f"file:{there[0]}{_columns(there[0], benchmark.options)}"


def content_mark(settings: RunSettings, source: str) -> str | None:
    """What tells the content of a source apart: a file's hash, or a benchmark's commit on the hub.

    None where a name alone says what is read: what a URL serves is not looked at.
    """
    uri = resolve(source, settings.evaluation.benchmark_dir)
    file = sources.local_file(uri)
    if file is not None:
        return file_hash(file)
    return uri if uri != source else None


def _columns(file: Path, options: str) -> str:
    """The options of the hub's columns, if the file has these columns; else usual names count."""
    if not options:
        return ""
    named = Columns.of(file.name, parse_options(file.name, options, ("question", "answer")))
    first = next(read_file(str(file), Columns()), None)
    there = first.values or {} if first is not None else {}
    fits = all(name in there for name in (*named.question, *named.answer))
    return f"?{options}" if fits else ""
