"""A page as a test reads it: what is cited from where, and what is only said."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_VOID = {"meta", "link", "br", "hr", "img", "input"}
_NOT_READ = {"style", "svg", "script", "title"}


@dataclass
class Citation:
    """A number (with its `style` and raw `value`) or a text, and the pointer it names."""

    pointer: str
    style: str | None
    value: str | None
    text: str = ""


@dataclass
class Page(HTMLParser):
    """Everything a test asks of a page; `said` are texts that cite nothing."""

    cited: list[Citation] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    _open: list[tuple[str, Citation | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    @classmethod
    def of(cls, text: str) -> "Page":
        page = cls()
        page.feed(text)
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if given.get("id"):
            self.ids.append(str(given["id"]))
        citation = None
        if given.get("data-of"):
            citation = Citation(str(given["data-of"]), given.get("data-as"), given.get("value"))
            self.cited.append(citation)
        if tag == "tr":
            self.rows.append("")
        if tag not in _VOID:
            self._open.append((tag, citation))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if any(tag in _NOT_READ for tag, _ in self._open):
            return
        if any(tag == "tr" for tag, _ in self._open):
            self.rows[-1] += f" {data.strip()}"
        citations = [citation for _, citation in self._open if citation]
        if citations:
            citations[-1].text += data
        elif data.strip():
            self.said.append(data.strip())


def resolve(document: Any, pointer: str) -> Any:
    """The value at a JSON pointer (RFC 6901)."""
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        document = document[int(name)] if isinstance(document, list) else document[name]
    return document
