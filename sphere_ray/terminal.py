"""What commands share: consoles, one-line messages, an option, and how a command ends."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from sphere_ray.errors import SphereError
from sphere_ray.interruption import Interrupted
from sphere_ray.redaction import redact
from sphere_ray.untrusted import printable

_MAX_MESSAGE_CHARS = 4000

_plain = partial(Console, soft_wrap=True, highlight=False, markup=False, emoji=False)
err = _plain(stderr=True)
out = _plain()
tables = partial(Console, markup=False, emoji=False)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated."),
]


def tell(line: str) -> None:
    """Print a line, whatever it quotes, on standard output."""
    out.print(_one_line(line))


@contextmanager
def outcomes(*, debug: bool, hint: str) -> Iterator[None]:
    """Turn what ends a command early into a sentence and an exit code."""
    try:
        yield
    except (BrokenPipeError, typer.Exit):  # whoever read the output has left; all is said
        raise
    except Exception as error:
        told = error if isinstance(error, SphereError) else _disk_trouble(error)
        if debug or told is None:  # a mistake of ours; Python would print its secrets too
            err.print(redact(traceback.format_exc()), end="")
        if told is not None:
            err.print(f"error: {_one_line(str(told))}")
        raise typer.Exit(1 if told is None else told.exit_code) from error
    except KeyboardInterrupt as error:
        code = error.exit_code if isinstance(error, Interrupted) else 130
        err.print(f"stopped; {hint}")
        raise typer.Exit(code) from error
    except SystemExit as error:
        # Ray's own signal handlers leave this way, some with code 0.
        err.print(f"stopped; {hint}")
        raise typer.Exit(130) from error


def _disk_trouble(error: Exception) -> SphereError | None:
    from sphere_ray.storage import disk_trouble

    return disk_trouble(error)


def _one_line(text: str) -> str:
    """A message that cannot flood or steer a terminal, whatever strangers' text it quotes."""
    line = printable(text)
    return line if len(line) <= _MAX_MESSAGE_CHARS else f"{line[:_MAX_MESSAGE_CHARS]}..."
