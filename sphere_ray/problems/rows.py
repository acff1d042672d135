"""What all problem sources share: the options of a URI, and a row before anyone has judged it."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Self
from urllib.parse import parse_qsl

from sphere_ray.errors import ProblemSourceError

FAMILY = ("family", "subject", "type")
LEVEL = ("level",)
BODY = ("body", "context", "passage")
"""Columns that hold the first part of a question in some data sets."""
CHOICES = ("choices", "options")

COLUMN_OPTIONS = ("question", "answer", "choices", "grade")
LETTERS, VALUES = "letters", "values"
_MAX_LISTED = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Names of the question and answer columns; of several names the first one present counts.

    GSM8K has question and answer, MATH and NuminaMath problem and solution, MetaMath query and
    response, verl prompt and reward_model. A name is a column, or a path into one with dots:
    `reward_model.ground_truth`, `answers.0`. If the user `named` the question's columns, they are
    parts that belong together. `choices` is a column of choices to show, and `by_letter` says
    whether the answer is the letter of one or its text.
    """

    question: tuple[str, ...] = ("question", "problem", "prompt", "query")
    answer: tuple[str, ...] = (
        *("answer", "final_answer", "solution", "response"),
        "reward_model.ground_truth",
    )
    named: bool = False
    choices: str | None = None
    by_letter: bool = True

    @classmethod
    def of(cls, uri: str, options: Mapping[str, str]) -> Self:
        """Read them from the options of a URI; see `COLUMN_OPTIONS`.

        Raises:
            ProblemSourceError: `grade` is unknown, or there are no choices for it.
        """
        grade, choices = options.get("grade", LETTERS), options.get("choices")
        if grade not in (LETTERS, VALUES) or ("grade" in options and choices is None):
            raise ProblemSourceError(
                f"{uri}: grade={grade} needs choices=COLUMN beside it, and is {LETTERS} or "
                f"{VALUES}; correct it, or remove it"
            )
        names: dict[str, tuple[str, ...]] = {}
        if "question" in options:
            names["question"] = tuple(filter(None, options["question"].split(",")))
        if "answer" in options:
            names["answer"] = (options["answer"],)
        return cls(
            **names, named="question" in options, choices=choices, by_letter=grade == LETTERS
        )

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every name that may be looked up in a row."""
        chosen = (self.choices,) if self.choices else ()
        return (*self.question, *self.answer, *chosen, *FAMILY, *LEVEL, *BODY, *CHOICES)

    def require(self, names: Iterable[str], where: str) -> None:
        """Check the columns of a whole source.

        Raises:
            ProblemSourceError: a column is there twice, or one that is needed is missing.
        """
        counts = Counter(iter(names))
        if twice := next((name for name, count in counts.items() if count > 1), None):
            raise ProblemSourceError(
                f"{where} has two columns named {twice}; rename or remove one of them"
            )
        listed = ", ".join(islice(counts, _MAX_LISTED)) or "none"
        for role, wanted in (("question", self.question), ("answer", self.answer)):
            there = [name for name in wanted if _column(name, counts)]
            if not there or (role == "question" and self.named and len(there) < len(wanted)):
                need = " and " if role == "question" and self.named else " or "
                raise ProblemSourceError(
                    f"{where} has no {role} column: it has {listed}, but "
                    f"{need.join(wanted)} is needed; rename one, or name it by ?{role}=COLUMN"
                    + (" (?question=A,B joins two)" if role == "question" else "")
                )
        if self.choices is not None and not _column(self.choices, counts):
            raise ProblemSourceError(
                f"{where} has no column {self.choices} for choices: it has {listed}"
            )


def _column(name: str, names: Collection[str]) -> str | None:
    """The column in which a name or path lies, if it is there."""
    return next((each for each in (name, name.partition(".")[0]) if each in names), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """One row: its `values` as the source has them, or the `error` that left none.

    `origin` says where the row is, e.g. `train.jsonl:17`; `text` is the row's text in the source.
    `left_out` are columns that were not even read.
    """

    origin: str
    values: Mapping[str, object] | None = None
    columns: Columns = Columns()
    error: str | None = None
    text: str | None = None
    left_out: tuple[str, ...] = ()


def lookup(values: Mapping[str, object], name: str) -> object:
    """The value of a column or of a path into one; None where there is none."""
    if name in values or "." not in name:
        return values.get(name)
    here: object = values
    for part in name.split("."):
        if isinstance(here, Mapping):
            here = here.get(part)
        elif isinstance(here, list) and part.isdecimal() and len(part) < 6:
            here = here[int(part)] if int(part) < len(here) else None
        else:
            return None
    return here


def pick(values: Mapping[str, object], names: tuple[str, ...]) -> tuple[str, object]:
    """The first of `names` that holds something, and what it holds.

    Where none does, the value is one that is blank, or None.
    """
    blank: tuple[str, object] = ("", None)
    for name in names:
        value = lookup(values, name)
        if not is_blank(value):
            return name, value
        if value is not None:
            blank = name, value
    return blank


def is_blank(value: object) -> bool:
    """Whether a value holds nothing: null, white space, or an empty list."""
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


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
