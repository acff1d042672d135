"""What every table of a terminal is made of: a plain table, and figures as text."""

from rich.table import Table

UNKNOWN = "-"


def plain_table(title: str, first: str, *columns: str) -> Table:
    """A table whose first column is text and whose other columns are figures."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def percent(share: float | None) -> str:
    """A share in percent."""
    return UNKNOWN if share is None else f"{100 * share:.1f}"


def points(share: float) -> str:
    """A change in points, with its sign."""
    return f"{100 * share:+.1f}"
