"""The vocabulary of word problems: people, and lists of words by kind."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Person:
    """A name and its pronouns."""

    name: str
    she: str
    her: str

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
    *(Person(name, "she", "her") for name in _WOMEN.split()),
    *(Person(name, "he", "his") for name in _MEN.split()),
)

WORDS: Mapping[str, tuple[str | Noun, ...]] = {
    "collectible": (
        "stickers",
        "marbles",
        "stamps",
        "coins",
        "cards",
        "shells",
        "buttons",
        "beads",
        "badges",
        "postcards",
        "pebbles",
        "ribbons",
    ),
    "food": (
        "apples",
        "cookies",
        "muffins",
        "oranges",
        "peaches",
        "plums",
        "cupcakes",
        "candies",
        "walnuts",
        "pears",
        "bagels",
        "strawberries",
    ),
    "supply": (
        "pencils",
        "crayons",
        "erasers",
        "markers",
        "notebooks",
        "paper clips",
        "pens",
        "folders",
        "rulers",
        "brushes",
    ),
    "ware": (
        Noun("notebook", "notebooks"),
        Noun("pen", "pens"),
        Noun("ticket", "tickets"),
        Noun("sandwich", "sandwiches"),
        Noun("toy car", "toy cars"),
        Noun("book", "books"),
        Noun("plant", "plants"),
        Noun("cup", "cups"),
        Noun("puzzle", "puzzles"),
        Noun("scarf", "scarves"),
        Noun("juice", "juices"),
        Noun("poster", "posters"),
    ),
    "box": (
        Noun("box", "boxes"),
        Noun("bag", "bags"),
        Noun("jar", "jars"),
        Noun("basket", "baskets"),
        Noun("tray", "trays"),
        Noun("crate", "crates"),
        Noun("packet", "packets"),
    ),
    "thing": (
        Noun("robot", "robots"),
        Noun("kite", "kites"),
        Noun("wagon", "wagons"),
        Noun("tent", "tents"),
        Noun("tower", "towers"),
        Noun("boat", "boats"),
        Noun("sled", "sleds"),
        Noun("cabin", "cabins"),
        Noun("jacket", "jackets"),
        Noun("toy train", "toy trains"),
    ),
    "part": ("lights", "flags", "bells", "wheels", "ropes", "hooks", "buttons", "pockets"),
    "job": (
        "mowing lawns",
        "walking dogs",
        "washing cars",
        "babysitting",
        "raking leaves",
        "delivering papers",
        "painting fences",
        "watering gardens",
    ),
    "place": (
        "bus",
        "train",
        "library",
        "park",
        "museum",
        "pool",
        "theater",
        "garden",
        "cafe",
        "gym",
    ),
    "text": ("book", "novel", "comic", "magazine", "diary", "story book"),
}
