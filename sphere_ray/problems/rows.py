"""A row as a source gives it, before anyone judged it, and which of its columns mean what."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sphere_ray.errors import ProblemSourceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names under which a question and its answer are looked for; the first one present counts.

    GSM8K has question and answer, MATH and NuminaMath problem and solution, MetaMath query and
    response.
    """

    question: tuple[str, ...] = ("question", "problem", "prompt", "query")
    answer: tuple[str, ...] = ("answer", "final_answer", "solution", "response")

    def require(self, names: Iterable[str], where: str) -> None:
        """Check the columns of a whole source.

        Raises:
            ProblemSourceError: it has no question or no answer column.
        """
        names = list(names)
        for role, wanted in (("question", self.question), ("answer", self.answer)):
            if not set(wanted) & set(names):
                raise ProblemSourceError(
                    f"{where} has no {role} column: it has {', '.join(names) or 'none'}, but "
                    f"{' or '.join(wanted)} is needed; rename one, or name it by ?{role}=COLUMN"
                )


FAMILY = ("family", "subject", "type")
LEVEL = ("level",)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One row: `values` as the source has them, or `error`, why there are none.

    `origin` says where to find it, e.g. `train.jsonl:17`; `text` is the source's own text, if any.
    """

    origin: str
    values: Mapping[str, object] | None = None
    columns: Columns = Columns()
    error: str | None = None
    text: str | None = None


def pick(values: Mapping[str, object], names: tuple[str, ...]) -> object:
    """The value of the first of `names` that is present and not null, else None."""
    return next((values[name] for name in names if values.get(name) is not None), None)


def parse_columns(options: Mapping[str, str]) -> Columns:
    """The columns named by `question=` and `answer=` of a URI, and the usual ones otherwise."""
    return Columns(**{role: (options[role],) for role in ("question", "answer") if role in options})
