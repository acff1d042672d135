"""Families about equal groups: filling them, counting them, sharing out."""

from sphere_ray.problems.families.family import Family, Level, told

_PACK = Family(
    name="pack",
    words={"item": "food", "box": "box"},
    levels={
        1: Level(
            operands={"a": (2, 60), "b": (2, 60)},
            steps="total = a * b",
            limit=300,
            small=12,
            story=told("""
                {who} has {a} {box.many} with {b} {item} in each {box}.
                There are {a} {box.many}. Each {box} holds {b} {item}.
                {who} packs {b} {item} into each {box} and fills {a} {box.many}.

                How many {item} are there in total?
                How many {item} is that altogether?
                How many {item} are there in all the {box.many}?
            """),
        ),
        2: Level(
            operands={"a": (2, 6), "b": (2, 6), "c": (2, 9)},
            steps="packed = a * b; total = packed + c",
            limit=40,
            story=told("""
                {who} has {a} {box.many} with {b} {item} in each {box}
                {who} finds {a} {box.many} of {b} {item} each

                and {c} more {item} on the table.
                and {c} loose {item} besides.

                How many {item} does {who} have in total?
                How many {item} is that altogether?
            """),
        ),
        3: Level(
            operands={"a": (2, 5), "b": (2, 5), "c": (2, 5), "d": (2, 5)},
            steps="first = a * b; second = c * d; total = first + second",
            limit=40,
            story=told("""
                {who} has {a} {box.many} with {b} {item} each, and {c} {box2.many} with {d} {item}
                    each.
                There are {a} {box.many} of {b} {item} and {c} {box2.many} of {d} {item}.

                How many {item} are there in total?
                How many {item} is that altogether?
            """),
        ),
    },
)

_PARTS = Family(
    name="parts",
    words={"thing": "thing", "part": "part"},
    levels={
        1: Level(
            operands={"k": (2, 60), "n": (2, 60)},
            steps="all = n * k",
            limit=300,
            small=12,
            story=told("""
                A {thing} has {k} {part}.
                Every {thing} has {k} {part}.
                There are {k} {part} on a {thing}.

                How many {part} do {n} {thing.many} have?
                How many {part} are there on {n} {thing.many}?
            """),
        ),
        2: Level(
            operands={"k": (2, 6), "n": (2, 6), "b": (2, 9)},
            steps="all = n * k; left = all - b",
            limit=40,
            story=told("""
                A {thing} has {k} {part}.
                Every {thing} has {k} {part}.

                On {n} {thing.many} {b} {part} are broken.

                How many {part} are not broken?
                How many {part} still work?
            """),
        ),
    },
)

_SHARE = Family(
    name="share",
    words={"item": "supply"},
    levels={
        1: Level(
            operands={"a": (4, 300), "n": (2, 20)},
            steps="each = a / n",
            limit=60,
            least=2,
            small=48,
            story=told("""
                {who} shares {a} {item} equally among {n} friends.
                {a} {item} are divided equally among {n} children.
                A teacher hands out {a} {item} equally to {n} students.

                How many {item} does each of them get?
                How many {item} does each one get?
            """),
        ),
        2: Level(
            operands={"a": (2, 12), "b": (2, 9), "n": (2, 5)},
            steps="total = a + b; each = total / n",
            story=told("""
                {who} has {a} {item} and {who2} has {b}. They share all of them equally among {n}
                    friends.
                {who} buys {a} {item} and then {b} more. {who.cap} divides all of them equally
                    among {n} friends.

                How many {item} does each friend get?
                How many {item} does every friend receive?
            """),
        ),
        3: Level(
            operands={"a": (2, 12), "b": (2, 9), "c": (2, 9), "n": (2, 5)},
            steps="total = a + b; more = total + c; each = more / n",
            story=told("""
                {who} has {a} {item}, {who2} has {b} and {who3} has {c}. All of them are divided
                    equally among {n} groups.
                A class has {a} red, {b} blue and {c} green {item}. They are shared equally among
                    {n} students.

                How many {item} does each one get?
                How many {item} does each receive?
            """),
        ),
    },
)

_FILL = Family(
    name="fill",
    words={"item": "food", "box": "box"},
    levels={
        1: Level(
            operands={"a": (4, 300), "n": (2, 20)},
            steps="boxes = a / n",
            limit=60,
            least=2,
            small=48,
            story=told("""
                {who} packs {a} {item} into {box.many} with {n} {item} in each {box}.
                {who} has {a} {item} and puts {n} of them into each {box}.
                A {box} holds {n} {item}. {who} wants to pack {a} {item}.

                How many {box.many} does {who} need?
                How many {box.many} does {who.she} fill?
            """),
        ),
        2: Level(
            operands={"a": (4, 60), "n": (2, 6), "b": (2, 9)},
            steps="boxes = a / n; total = boxes + b",
            story=told("""
                {who} packs {a} {item} into {box.many} with {n} {item} in each {box}.
                {who} has {a} {item} and puts {n} of them into each {box}.

                {who2} fills {b} more {box.many}.
                {who2} brings {b} full {box.many}.

                How many full {box.many} are there?
                How many full {box.many} do they have together?
            """),
        ),
    },
)

_ROWS = Family(
    name="rows",
    unseen=True,
    words={"plant": "plant"},
    levels={
        1: Level(
            operands={"a": (4, 300), "n": (2, 20)},
            steps="each = a / n",
            limit=60,
            least=2,
            small=48,
            story=told("""
                {who} plants {a} {plant} equally in {n} rows.
                A gardener puts {a} {plant} equally into {n} rows.
                {a} {plant} are planted equally in {n} rows.

                How many {plant} are in each row?
                How many {plant} are there in every row?
            """),
        ),
    },
)

GROUPS = (_PACK, _PARTS, _SHARE, _FILL, _ROWS)
