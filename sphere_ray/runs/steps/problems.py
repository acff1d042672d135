"""The problems step: read, check and split the problems."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

from sphere_ray import storage
from sphere_ray.config import RunSettings
from sphere_ray.config.base import identity
from sphere_ray.engines.model_source import open_tokenizer
from sphere_ray.method.prompts import question_messages
from sphere_ray.problems.ingest import (
    SPLITS,
    IngestResult,
    ingest,
    rejected_lines,
    require_usable,
)
from sphere_ray.problems.sources import local_file, reader_for
from sphere_ray.records import ModelRef, Problem
from sphere_ray.runs.manifest import file_hash
from sphere_ray.runs.step import Made, Result, Step, Work
from sphere_ray.runs.steps.rollouts import question_prompts
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
        sources = {split: getattr(self.settings.problems, split).source for split in SPLITS}
        files = {split: local_file(source) for split, source in sources.items()}
        files["tokenizer"] = self._tokenizer_file()
        return {name: file_hash(file) for name, file in files.items() if file is not None}

    def run(self, work: Work) -> Result:
        """Ingest the sources.

        Raises:
            ProblemSourceError: a source cannot be used, or too many of its rows.
        """
        settings = self.settings.problems
        found = ingest(
            settings,
            reader_for(self.settings.method.prompts),
            count_tokens=self._token_counter(),
            max_tokens=self.settings.engines.policy.max_model_len - 1,
        )
        suffix = work.path.rpartition("/")[2].removeprefix(self.kind)
        rejected = work.session.run.file(f"rejected/rows{suffix}.jsonl")
        storage.write_text(rejected_lines(found.rejected), rejected)
        for line in found.report():
            work.session.log(line)
        if found.overlaps:
            overlaps = work.session.run.file(f"rejected/contaminated{suffix}.jsonl")
            storage.write_text(rejected_lines(found.overlaps), overlaps)
            work.session.log(
                f"{len(found.overlaps)} training problems overlap with held-out ones and are left "
                f"out; what they met is in {overlaps}"
            )
        require_usable(found, settings.max_rejected_share, rejected)
        if found.rejected:
            work.session.log(
                f"{len(found.rejected)} rows were rejected; the reasons are in {rejected}"
            )
        write_problems(work.path, found.problems)
        return counted(found)

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


def write_problems(directory: str, problems: Mapping[str, Sequence[Problem]]) -> None:
    """Write each split to a directory of its own."""
    for split, found in problems.items():
        storage.write_table(to_table(found, Problem), f"{directory}/{split}/{DATA}")


def counted(found: IngestResult) -> Result:
    """What an ingest came to."""
    return Result(
        rows_in=sum(found.rows.values()),
        rows_out=sum(len(problems) for problems in found.problems.values()),
        dropped=found.dropped,
    )


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
