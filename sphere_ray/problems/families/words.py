"""The vocabulary of word problems: people, and lists of words by kind."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Person:
    """A name and its pronoun."""

    name: str
    she: str

    @property
    def cap(self) -> str:
        """The pronoun at the start of a sentence."""
        return self.she.capitalize()

    def __str__(self) -> str:
        """Format as the name."""
        return self.name


@dataclass(frozen=True, slots=True)
class Noun:
    """A countable thing."""

    one: str
    many: str

    def __str__(self) -> str:
        """Format as the singular."""
        return self.one


_WOMEN = (
    "Anna Maria Lucy Emma Olivia Sofia Mia Grace Nora Priya Aisha Elena Hannah Julia Leah Rosa Zoe "
    "Fatima Ingrid Keiko Amara Clara Nina Tessa"
)
_MEN = (
    "Tom Ben Jack Noah Liam Omar Ravi Diego Lucas Henry Felix Hugo Ivan Jonas Kofi Marco Oscar "
    "Peter Sam Victor Yusuf Adam Carlos Daniel"
)
PEOPLE: tuple[Person, ...] = (
    *(Person(name, "she") for name in _WOMEN.split()),
    *(Person(name, "he") for name in _MEN.split()),
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


def _nouns(text: str) -> tuple[Noun, ...]:
    """Read `notebook, scarf/scarves`: the plural is given where it does not just end in s."""
    pairs = (word.partition("/") for word in text.split(", "))
    return tuple(Noun(one, many or f"{one}s") for one, _, many in pairs)


WORDS: Mapping[str, tuple[str | Noun, ...]] = {
    "collectible": _words(
        "stickers, marbles, stamps, coins, cards, shells, buttons, beads, badges, postcards, "
        "pebbles, ribbons"
    ),
    "food": _words(
        "apples, cookies, muffins, oranges, peaches, plums, cupcakes, candies, walnuts, pears, "
        "bagels, strawberries"
    ),
    "supply": _words(
        "pencils, crayons, erasers, markers, notebooks, paper clips, pens, folders, rulers, brushes"
    ),
    "animal": _words("cows, horses, goats, ducks, hens, rabbits, pigs, donkeys, ponies, lambs"),
    "plant": _words(
        "tulips, roses, bushes, trees, carrots, cabbages, onions, daisies, lilies, pumpkins"
    ),
    "ware": _nouns(
        "notebook, pen, ticket, sandwich/sandwiches, toy car, book, plant, cup, puzzle, "
        "scarf/scarves, juice, poster"
    ),
    "box": _nouns("box/boxes, bag, jar, basket, tray, crate, packet"),
    "thing": _nouns("robot, kite, wagon, tent, tower, boat, sled, cabin, jacket, toy train"),
    "part": _words("lights, flags, bells, wheels, ropes, hooks, buttons, pockets"),
    "job": _words(
        "mowing lawns, walking dogs, washing cars, babysitting, raking leaves, delivering papers, "
        "painting fences, watering gardens"
    ),
    "text": _words("book, novel, comic, magazine, diary, story book"),
}
