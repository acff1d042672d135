"""The problems step: read, check and split the problems."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

from sphere_ray import storage
from sphere_ray.benchmarks.named import SCHEME
from sphere_ray.benchmarks.sources import content_mark, read_benchmark, reader_for
from sphere_ray.config import RunSettings
from sphere_ray.config.base import identity
from sphere_ray.config.identities import question_prompts
from sphere_ray.method.prompts import question_messages
from sphere_ray.models.source import open_tokenizer
from sphere_ray.problems.ingest import (
    SPLITS,
    IngestResult,
    ingest,
    rejected_lines,
    require_usable,
)
from sphere_ray.provenance import file_hash
from sphere_ray.records import ModelRef, Problem
from sphere_ray.runs.step import Made, Result, Step, Work
from sphere_ray.schema import to_table

DATA = "part-00000.parquet"


@dataclass(frozen=True, kw_only=True)
class ProblemsStep(Step):
    """Problems by split in `train/`, `validation/` and `test/`; rejected rows go to `rejected/`.

    A question whose prompt leaves no room for an answer in the policy's context is rejected too.
    """

    kind: ClassVar[str] = "problems"

    settings: RunSettings
    policy: ModelRef
    held_out: tuple[Made, ...] = ()
    """Benchmarks, which no training problem may meet."""

    def identity(self) -> dict[str, Any]:
        """The sources; prompts and context length, for they decide which questions fit.

        The prompts' examples also decide which operands are left out.
        """
        return identity(
            problems=self.settings.problems,
            prompts=question_prompts(self.settings),
            max_model_len=self.settings.engines.policy.max_model_len,
        )

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """Local files and the tokenizer by their hashes, where they are at hand.

        What a URL serves is not looked at: give it another name when it changes.
        """
        marks: dict[str, Made | ModelRef | str] = {made.name: made for made in self.held_out}
        for split in SPLITS:
            source = getattr(self.settings.problems, split).source
            if (mark := content_mark(self.settings, source)) is not None:
                marks[split] = mark
        if (tokenizer := self._tokenizer_file()) is not None:
            marks["tokenizer"] = file_hash(tokenizer)
        return marks

    def run(self, work: Work) -> Result:
        """Ingest the sources.

        Raises:
            ProblemSourceError: a source cannot be used, or too many of its rows.
        """
        found = ingest(
            self.settings.problems,
            reader_for(self.settings),
            held_out=dict(map(_problems_of, self.held_out)),
            count_tokens=self._token_counter(),
            max_tokens=self.settings.engines.policy.max_model_len - 1,
        )
        return _commit(work, found, self.settings, "rows")

    def _token_counter(self) -> Callable[[str], int] | None:
        """Counts the tokens of a question's prompt; None where the tokenizer is not at hand."""
        file = self._tokenizer_file()
        if file is None:
            return None
        tokenizer = open_tokenizer(file)
        prompts = self.settings.method.prompts

        def count(question: str) -> int:
            turns = question_messages(question, prompts)
            return sum(len(tokenizer.encode(turn.content).ids) for turn in turns)

        return count

    def _tokenizer_file(self) -> Path | None:
        file = Path(self.policy.path) / "tokenizer.json"
        return file if self.policy.path and file.is_file() else None


@dataclass(frozen=True, kw_only=True)
class BenchmarkProblemsStep(Step):
    """The problems of a benchmark, in a directory of its name."""

    kind: ClassVar[str] = "benchmarks"

    settings: RunSettings
    reference: str

    def identity(self) -> dict[str, Any]:
        """Nothing but the content."""
        return {}

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """The file, or the commit of the hub."""
        source = f"{SCHEME}{self.reference}"
        return {"source": content_mark(self.settings, source) or source}

    def run(self, work: Work) -> Result:
        """Read it.

        Raises:
            ProblemSourceError: it cannot be read, or too many of its rows.
        """
        found = read_benchmark(self.settings, self.reference)
        return _commit(work, found, self.settings, *found.problems)


def _problems_of(benchmark: Made) -> tuple[str, tuple[Problem, ...]]:
    assert benchmark.finished is not None
    name = benchmark.finished.label.partition("/")[0]
    return name, tuple(benchmark.finished.rows(Problem, below=name))


def _commit(work: Work, found: IngestResult, settings: RunSettings, name: str) -> Result:
    """Write the problems, write down the rows that were left out, and log what was read."""
    suffix = work.path.rpartition("/")[2].removeprefix(ProblemsStep.kind)
    rejected = work.session.run.file(f"rejected/{name}{suffix}.jsonl")
    storage.write_text(rejected_lines(found.rejected), rejected)
    for line in found.report():
        work.session.log(line)
    if found.overlaps:
        overlaps = work.session.run.file(f"rejected/contaminated{suffix}.jsonl")
        storage.write_text(rejected_lines(found.overlaps), overlaps)
        work.session.log(
            f"{len(found.overlaps)} training problems overlap with held-out ones and are left out; "
            f"what they met is in {overlaps}"
        )
    require_usable(found, settings.problems.max_rejected_share, rejected)
    if found.rejected:
        work.session.log(f"{len(found.rejected)} rows were rejected; the reasons are in {rejected}")
    write_problems(work.path, found.problems)
    content = blake2b(digest_size=16)
    for split, problems in found.problems.items():
        for problem in problems:
            content.update(repr((split, problem)).encode())
    return Result(
        rows_in=sum(found.rows.values()),
        rows_out=sum(map(len, found.problems.values())),
        dropped=found.dropped,
        output=content.hexdigest(),  # what is made of equal problems need not be made again
    )


def write_problems(directory: str, problems: Mapping[str, Sequence[Problem]]) -> None:
    """Write each split to a directory of its own."""
    for split, found in problems.items():
        storage.write_table(to_table(found, Problem), f"{directory}/{split}/{DATA}")


@dataclass(frozen=True, kw_only=True)
class GivenProblemsStep(Step):
    """Problems that a command has read already; only their ids identify them."""

    kind: ClassVar[str] = "problems"

    split: str
    problems: tuple[Problem, ...]

    def identity(self) -> dict[str, Any]:
        """The split, and a hash of the problem ids in their order."""
        ids = "".join(problem.problem_id for problem in self.problems)
        return {"split": self.split, "ids": blake2b(ids.encode(), digest_size=16).hexdigest()}

    def inputs(self) -> Mapping[str, Made | ModelRef | str]:
        """Nothing that was made here."""
        return {}

    def run(self, work: Work) -> Result:
        """Write them."""
        write_problems(work.path, {self.split: self.problems})
        return Result(rows_in=len(self.problems), rows_out=len(self.problems))


@dataclass(frozen=True, kw_only=True)
class ValidationStep(GivenProblemsStep):
    """A batch of the validation problems, which one look at two models asks for."""

    kind: ClassVar[str] = "validation"
    split: str = "validation"
