"""Finds, among texts about mathematics, one that says what another says, perhaps in other words.

Two nets. One is the usual n-gram test (GPT-3, arXiv 2005.14165, appendix C): 13 words in a row that
both have, numbers kept. The other finds rewordings: the same numbers and formulas, and words that
mostly agree, by MinHash (Broder 1997) and then exactly.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasketch import MinHash

_GRAM = 13
_FIRST_CJK = "\u3040"
_CJK_GRAM = 26
"""Chinese and Japanese write two characters where others write a word."""
_MAX_OWNERS = 3
"""Words in a row that more texts share are their form, not their content."""
_ALIKE = 0.5
_ALIKE_WITHOUT_NUMBERS = 0.8
"""Shared words over all words, for texts with the same numbers, and for those with few of them."""
_FEW = 2

_BANDS, _ROWS = 32, 4
"""At half the words shared, 87 of 100 pairs are looked at; at 0.6, 98.8 (1 - (1 - s^4)^32)."""
_MAX_LOOKS = 50

_TOKEN = re.compile(
    r"\\(?P<command>[A-Za-z]+)|(?P<number>\d+(?:[.,]\d+)*)|(?P<han>[\u3040-\u30ff\u3400-\u9fff]+)"
    r"|(?P<word>[^\W\d_]+)|(?P<sign>[+\-*/^=<>](?!\s*[^\W\d_]{2}))"
)
_TYPESETTING = ("left", "right", "text", "textbf", "mathrm", "mathbf", "displaystyle", "quad")
_SAME = {"dfrac": "frac", "tfrac": "frac", "cdot": "*", "times": "*", "leq": "le", "geq": "ge"}
_SIGNS = str.maketrans({"\u2212": "-", "\u00d7": "*", "\u00b7": "*", "\u22c5": "*", "\u00f7": "/"})
_COUNTED = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_COUNTED, start=2)}
"""Not "one", which mostly is a pronoun."""


class SimilarTexts:
    """Texts by their grams, and by MinHash over their words. First add all, then look.

    Time and memory are linear in the text, and a look takes at most `_MAX_LOOKS` comparisons.
    """

    def __init__(self) -> None:
        """Know no text yet."""
        self._tokens: list[tuple[str, ...]] = []
        self._counts = Counter[int]()
        self._has_form = False
        self._index: _Index | None = None

    def __len__(self) -> int:
        """How many texts were added; they are numbered from 0."""
        return len(self._tokens)

    def add(self, content: str) -> None:
        """Add a text."""
        tokens = tuple(_read(content))
        grams = {hash(gram) for gram in _windows(tokens, _width(tokens))}
        self._counts.update(grams)
        self._has_form = self._has_form or any(self._counts[g] > _MAX_OWNERS for g in grams)
        self._tokens.append(tokens)
        self._index = None

    def find(self, content: str) -> tuple[int, str] | None:
        """The number of a text that says the same, and what they share."""
        if not self._tokens:
            return None
        if self._index is None:
            self._index = _Index([self._content(tokens) for tokens in self._tokens])
        tokens = self._content(tuple(_read(content)))
        return self._index.gram(tokens) or self._index.rewording(tokens)

    def _content(self, tokens: tuple[str, ...]) -> tuple[str, ...]:
        """The words without runs that more than `_MAX_OWNERS` texts share: their form."""
        width, end = _width(tokens), 0
        if not self._has_form or len(tokens) < width:
            return tokens
        kept: list[str] = []
        for place, gram in enumerate(_windows(tokens, width)):
            if self._counts[hash(gram)] > _MAX_OWNERS:
                end = place + width
            if place >= end:
                kept.append(tokens[place])
        return (*kept, *tokens[max(end, len(tokens) - width + 1) :])


class _Index:
    """The contents of texts, ready for looks."""

    def __init__(self, contents: list[tuple[str, ...]]) -> None:
        from datasketch import MinHashLSH

        self._contents = contents
        self._owners: dict[int, int] = {}
        self._formulas = set[tuple[str, ...]]()
        self._alike: MinHashLSH = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
        for number, tokens in enumerate(contents):
            # Of a short text its beginning is kept, or all of a shorter one.
            width = _width(tokens)
            some = tokens if len(tokens) >= width else tokens[: _shortest(width)]
            for gram in _windows(some, min(len(some), width)):
                self._owners.setdefault(hash(gram), number)
            words, formulas = _words_and_formulas(tokens)
            self._formulas.add(formulas)
            self._alike.insert(number, _min_hash(words, formulas), check_duplication=False)

    def gram(self, tokens: tuple[str, ...]) -> tuple[int, str] | None:
        """A text with a gram of these words, or one that lies in them as a whole."""
        width = _width(tokens)
        least, tried = _shortest(width), set[int]()
        for length in (width, least) if len(tokens) >= least else (len(tokens),):
            for gram in _windows(tokens, length):
                number = self._owners.get(hash(gram))
                if number is None or number in tried or len(tried) >= _MAX_LOOKS:
                    continue
                tried.add(number)
                known = self._contents[number]
                shared = gram if len(known) >= _width(known) else known
                # More than a hash must agree, and of a short text all.
                if all(shared in _windows(each, len(shared)) for each in (tokens, known)):
                    return number, f"{len(shared)} words in a row ({' '.join(shared)})"
        return None

    def rewording(self, tokens: tuple[str, ...]) -> tuple[int, str] | None:
        """A text with the same formulas and mostly the same words."""
        words, formulas = _words_and_formulas(tokens)
        if formulas not in self._formulas:
            return None
        least = _ALIKE if len(formulas) >= _FEW else _ALIKE_WITHOUT_NUMBERS
        for number in sorted(self._alike.query(_min_hash(words, formulas)))[:_MAX_LOOKS]:
            others, same_formulas = _words_and_formulas(self._contents[number])
            share = len(words & others) / len(words | others) if words or others else 1.0
            if formulas == same_formulas and share >= least:
                numbers = " and ".join(formulas) or "none"
                return number, f"{share:.0%} of the words, and all numbers ({numbers})"
        return None


def _read(content: str) -> Iterator[str]:
    """Words in small letters, numbers in one spelling, single letters, and `\\commands`.

    A sign belongs to what follows it.
    """
    sign = ""
    for match in _TOKEN.finditer(content.translate(_SIGNS)):
        kind, text = match.lastgroup, match[match.lastgroup or 0].casefold()
        if kind == "sign":
            sign += text
        elif kind == "han":
            yield from text
        elif text not in _TYPESETTING:
            if kind == "number":
                text = _plain(text)
            elif kind == "command":
                text = f"\\{_SAME.get(text, text)}"
            yield sign + _NUMBER_WORDS.get(text, text)
            sign = ""


def _words_and_formulas(tokens: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """The words of prose, and what stands between them: numbers and formulas, sorted."""
    words: set[str] = set()
    formulas: list[list[str]] = []
    is_open = False
    for token in tokens:
        is_word = token.isalpha() and (len(token) > 1 or token in "ai" or token >= _FIRST_CJK)
        if is_word:
            words.add(token)
        elif is_open:
            formulas[-1].append(token)
        else:
            formulas.append([token])
        is_open = not is_word
    return frozenset(words), tuple(sorted(" ".join(each) for each in formulas))


def _plain(number: str) -> str:
    """`1,000.50` as `1000.5`."""
    whole, point, decimals = number.replace(",", "").partition(".")
    decimals = decimals.rstrip("0")
    return f"{whole.lstrip('0') or '0'}{point if decimals else ''}{decimals}"


def _width(tokens: tuple[str, ...]) -> int:
    num_cjk = sum(1 for token in tokens if len(token) == 1 and token >= _FIRST_CJK)
    return _CJK_GRAM if 2 * num_cjk > len(tokens) else _GRAM


def _shortest(width: int) -> int:
    """From so many words on, a text that lies whole in another one counts (8 of 13, as GPT-3)."""
    return 8 * width // 13


def _windows(tokens: tuple[str, ...], width: int) -> Iterator[tuple[str, ...]]:
    """All runs of so many words."""
    return (tokens[i : i + width] for i in range(len(tokens) - width + 1) if width)


@cache
def _no_words() -> "MinHash":
    from datasketch import MinHash

    return MinHash(num_perm=_BANDS * _ROWS, seed=1)


def _min_hash(words: frozenset[str], formulas: tuple[str, ...]) -> "MinHash":
    """Of the words, each together with all formulas: texts with other formulas share nothing."""
    salt = "\0".join(formulas).encode()
    found = _no_words().copy()
    found.update_batch([salt, *(salt + b"\1" + word.encode() for word in words)])
    return found
