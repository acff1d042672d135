"""Numbers and texts of a page, each with the place in the facts that it was taken from.

A number becomes `<data value="0.4" data-of="/runs/0/summary/..." data-as="percent">40.0</data>`, so
that whoever doubts a page, a test for example, can look every number up.
"""

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from sphere_ray.reporting.progress import clock_time

_MINUS = "\u2212"
_NONE = "\u2013"
_SMALL = 1e-4


def _p_value(value: float, equal: str = "") -> str:
    return f"< {_SMALL:g}" if value < _SMALL else f"{equal}{value:.2g}"


STYLES: Mapping[str, Callable[[Any], str]] = {
    "count": lambda value: f"{value:,}",
    "percent": lambda value: f"{100 * value:.1f}",
    "points": lambda value: f"{100 * value:+.1f}",
    "decimal": lambda value: f"{value:,.2f}",
    "signed": lambda value: f"{value:+.2f}",
    "fine": lambda value: f"{value:.3f}",
    "tenth": lambda value: f"{value:,.1f}",
    "whole": lambda value: f"{value:,.0f}",
    "clock": clock_time,
    "rate": lambda value: f"{value:.1e}",
    "p": _p_value,
    "p =": lambda value: _p_value(value, "= "),
}
"""How numbers are written, by the name that a page gives."""


class Cited:
    """The facts below one place of a document, in the form that templates show them.

    Places are JSON pointers (RFC 6901): `/summary/test/final/pass@1`.
    """

    def __init__(self, document: Any, place: str = "") -> None:
        """`place` is where `document` lies in the whole."""
        self._document = document
        self.place = place

    def at(self, pointer: str) -> Any:
        """The value at a pointer.

        Raises:
            KeyError: there is none.
        """
        value = self._document
        for token in pointer.split("/")[1:]:
            name = token.replace("~1", "/").replace("~0", "~")
            value = value[int(name)] if isinstance(value, list | tuple) else value[name]
        return value

    def below(self, pointer: str) -> "Cited":
        """The facts below a pointer."""
        return Cited(self.at(pointer), f"{self.place}{pointer}")

    def keys(self, pointer: str = "") -> list[str]:
        """Pointers to all that a mapping or a list holds, in order."""
        value = self.at(pointer)
        names = value if isinstance(value, Mapping) else range(len(value))
        return [f"{pointer}/{str(n).replace('~', '~0').replace('/', '~1')}" for n in names]

    def n(self, pointer: str, style: str) -> Markup:
        """A number, or a dash where there is none."""
        value = self.at(pointer)
        shown = _NONE if value is None else STYLES[style](value).replace("-", _MINUS)
        return Markup('<data value="{}" data-of="{}" data-as="{}">{}</data>').format(
            "" if value is None else repr(value), f"{self.place}{pointer}", style, shown
        )

    def ci(self, pointer: str, style: str) -> Markup:
        """An interval as `low to high`, or a dash."""
        if self.at(pointer) is None:
            return Markup(_NONE)
        return Markup(" to ").join(self.n(f"{pointer}/{side}", style) for side in (0, 1))

    def t(self, pointer: str) -> Markup:
        """A text as it is, escaped."""
        value = self.at(pointer)
        shown = _NONE if value is None else str(value)
        return Markup('<span data-of="{}">{}</span>').format(f"{self.place}{pointer}", shown)
