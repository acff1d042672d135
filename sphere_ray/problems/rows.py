"""What all problem sources share: the options of a URI, and a row before anyone has judged it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from sphere_ray.errors import ProblemSourceError

FAMILY = ("family", "subject", "type")
LEVEL = ("level",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of the question and answer columns; of several names the first one present counts.

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One row: its `values` as the source has them, or the `error` that left none.

    `origin` says where the row is, e.g. `train.jsonl:17`; `text` is the row's text in the source.
    """

    origin: str
    values: Mapping[str, object] | None = None
    columns: Columns = Columns()
    error: str | None = None
    text: str | None = None


def pick(values: Mapping[str, object], names: tuple[str, ...]) -> object:
    """Return the value of the first of `names` that is present and not null, else None."""
    return next((values[name] for name in names if values.get(name) is not None), None)


def parse_options(uri: str, query: str, known: Collection[str]) -> dict[str, str]:
    """Return the options of a URI, `NAME=VALUE` joined by `&`.

    Raises:
        ProblemSourceError: an option is unknown, empty or given twice.
    """
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known or not value:
            raise ProblemSourceError(
                f"{uri}: {name}={value} is not understood; known are {', '.join(known)}"
            )
        if name in options:
            raise ProblemSourceError(f"{uri}: {name} is given twice; give it once")
        options[name] = value
    return options
