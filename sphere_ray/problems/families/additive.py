"""Families about joining, taking away and comparing."""

from sphere_ray.problems.families.family import Family, Level, told

_GATHER = Family(
    name="gather",
    words={"item": "collectible"},
    levels={
        1: Level(
            operands={"a": (2, 98), "b": (2, 98)},
            steps="total = a + b",
            limit=100,
            small=12,
            story=told("""
                {who} collected {a} {item} on Saturday and {b} {item} on Sunday.
                {who} has {a} {item}. {who.cap} gets {b} more from {who2}.
                There are {a} {item} in a drawer. {who} puts {b} more in.
                {who} found {a} {item}, and {who2} found {b}.

                How many {item} are there in total?
                How many {item} is that altogether?
                How many {item} are there now in all?
            """),
        ),
        2: Level(
            operands={"a": (2, 12), "b": (2, 9), "c": (2, 6)},
            steps="both = a + b; total = both + c",
            small=6,
            story=told("""
                {who} has {a} {item}, {who2} has {b} and {who3} has {c}.
                {who} found {a} {item} on Monday, {b} on Tuesday and {c} on Friday.
                There are {a} {item} on a shelf, {b} on the table and {c} in a drawer.

                How many {item} are there in total?
                How many {item} is that altogether?
                What is the total number of {item}?
            """),
        ),
        3: Level(
            operands={"a": (2, 12), "b": (2, 9), "c": (2, 6), "d": (2, 9)},
            steps="first = a + b; most = first + c; left = most - d",
            story=told("""
                {who} had {a} {item}. {who.cap} got {b} from {who2} and {c} from {who3}.
                {who} found {a} {item} on Monday, {b} on Tuesday and {c} on Friday.

                Then {who.she} gave {d} {item} away.
                After that {who.she} lost {d} of them.

                How many {item} does {who} have left?
                How many {item} does {who} have now?
            """),
        ),
    },
)

_GIVE = Family(
    name="give",
    words={"item": "food"},
    levels={
        1: Level(
            operands={"a": (3, 100), "b": (2, 98)},
            steps="left = a - b",
            limit=98,
            small=12,
            story=told("""
                {who} had {a} {item}. {who.cap} gave {b} of them to {who2}.
                There were {a} {item} in the kitchen. {who} and {who2} ate {b} of them.
                {who} brought {a} {item} and sold {b} of them.
                A basket holds {a} {item}. {who} takes {b} out.

                How many {item} are left?
                How many {item} remain?
            """),
        ),
        2: Level(
            operands={"a": (6, 20), "b": (2, 9), "c": (2, 9)},
            steps="rest = a - b; left = rest - c",
            story=told("""
                {who} had {a} {item}. {who.cap} gave {b} to {who2} and {c} to {who3}.
                There were {a} {item} on the table. {who} ate {b} and {who2} ate {c}.
                A shop had {a} {item}. It sold {b} in the morning and {c} in the evening.

                How many {item} are left?
                How many {item} remain?
            """),
        ),
        3: Level(
            operands={"a": (6, 20), "b": (2, 9), "c": (2, 9), "d": (2, 9)},
            steps="rest = a - b; less = rest - c; left = less + d",
            story=told("""
                {who} had {a} {item}. {who.cap} gave {b} to {who2} and {c} to {who3}.
                {who} had {a} {item}. {who.cap} ate {b} and sold {c}.

                Then {who.she} bought {d} more.
                Later {who.she} received {d} new ones.

                How many {item} does {who} have now?
                How many {item} does {who} end up with?
            """),
        ),
    },
)

_LOSE = Family(
    name="lose",
    words={"item": "collectible"},
    levels={
        1: Level(
            operands={"a": (3, 100), "b": (2, 98)},
            steps="left = a - b",
            limit=98,
            small=12,
            story=told("""
                {who} had {a} {item}. {who.cap} lost {b} of them.
                {who} had {a} {item} and lost {b} {item}.
                {who} has {a} {item}. {who2} takes {b} of them away.

                How many {item} does {who} have left?
                How many {item} does {who} still have?
            """),
        ),
    },
)

_ARRIVE = Family(
    name="arrive",
    unseen=True,
    words={"animal": "animal"},
    levels={
        1: Level(
            operands={"a": (2, 98), "b": (2, 98)},
            steps="total = a + b",
            limit=100,
            small=12,
            story=told("""
                There are {a} {animal} in a field. Then {b} more {animal} come.
                {a} {animal} stand in a field, and {b} more {animal} join them.
                A farmer has {a} {animal} and buys {b} more.

                How many {animal} are there now?
                How many {animal} is that in total?
            """),
        ),
        2: Level(
            operands={"a": (2, 12), "b": (2, 9), "c": (2, 6)},
            steps="both = a + b; total = both + c",
            small=6,
            story=told("""
                There are {a} {animal} in a field. Then {b} more come, and later {c} more.
                A farmer has {a} {animal}. The farmer buys {b} more, and then another {c}.

                How many {animal} are there now?
                How many {animal} is that in total?
            """),
        ),
    },
)

_LEAVE = Family(
    name="leave",
    unseen=True,
    words={"animal": "animal"},
    levels={
        1: Level(
            operands={"a": (3, 100), "b": (2, 98)},
            steps="left = a - b",
            limit=98,
            small=12,
            story=told("""
                There were {a} {animal} in a field. {b} of them ran away.
                {a} {animal} stood in a field. Then {b} of them walked away.
                A farmer had {a} {animal} and sold {b} of them.

                How many {animal} are left?
                How many {animal} remained?
            """),
        ),
    },
)

_COMPARE = Family(
    name="compare",
    words={"item": "collectible"},
    levels={
        1: Level(
            operands={"a": (2, 98), "b": (2, 98)},
            steps="other = a + b",
            limit=100,
            small=12,
            story=told("""
                {who} has {a} {item}. {who2} has {b} more {item} than {who}.
                {who} found {a} {item}, and {who2} found {b} more than that.

                How many {item} does {who2} have?
                How many {item} is that for {who2}?
            """),
        ),
        2: Level(
            operands={"a": (2, 9), "b": (2, 9)},
            steps="other = a + b; total = a + other",
            limit=24,
            story=told("""
                {who} has {a} {item}. {who2} has {b} more {item} than {who}.
                {who} owns {a} {item}, and {who2} owns {b} more than {who} does.
                {who} found {a} {item}. {who2} found {b} more than that.

                How many {item} do they have together?
                How many {item} do {who} and {who2} have in total?
                How many {item} is that altogether?
            """),
        ),
        3: Level(
            operands={"a": (2, 8), "b": (2, 8), "c": (2, 5)},
            steps="second = a + b; third = second + c; total = a + third",
            story=told("""
                {who} has {a} {item}. {who2} has {b} more than {who}. {who3} has {c} more than
                    {who2}.
                {who} found {a} {item}. {who2} found {b} more than {who}, and {who3} found {c} more
                    than {who2}.

                How many {item} do {who} and {who3} have together?
                How many {item} do {who} and {who3} have in total?
            """),
        ),
    },
)

_BEFORE = Family(
    name="before",
    words={"item": "supply"},
    levels={
        1: Level(
            operands={"b": (2, 98), "c": (2, 98)},
            steps="start = b + c",
            limit=100,
            small=12,
            story=told("""
                {who} had some {item}. {who.cap} gave {b} of them to {who2} and has {c} left.
                After {who} lost {b} {item}, {who.she} had {c} left.
                {who} used {b} {item} at school. Now {who.she} has {c} {item} left.

                How many {item} did {who} have at the start?
                How many {item} did {who} have at first?
                How many {item} did {who} have before?
            """),
        ),
        2: Level(
            operands={"b": (2, 12), "c": (2, 9), "d": (2, 6)},
            steps="given = b + c; start = given + d",
            story=told("""
                {who} had some {item}. {who.cap} gave {b} to {who2} and {c} to {who3}, and now has
                    {d} left.
                After {who} lost {b} {item} and gave {c} away, {who.she} had {d} left.

                How many {item} did {who} have at the start?
                How many {item} did {who} have at first?
            """),
        ),
    },
)

_ASIDE = Family(
    name="aside",
    words={"item": "food", "thing": "collectible"},
    levels={
        1: Level(
            operands={"a": (2, 14), "b": (2, 9), "c": (2, 20)},
            steps="total = a + b",
            story=told("""
                {who} has {a} {item} and {c} {thing}. {who2} has {b} {item}.
                {who} bought {a} {item} on Monday and {b} {item} on Tuesday. {who.cap} also bought
                    {c} {thing}.
                There are {c} {thing} and {a} {item} in a bag. {who} puts in {b} more {item}.

                How many {item} are there in total?
                How many {item} is that altogether?
            """),
        ),
        2: Level(
            operands={"a": (2, 12), "b": (2, 9), "c": (2, 20), "d": (2, 6)},
            steps="more = a + b; now = more + d",
            story=told("""
                {who} has {a} {item} and {c} {thing}. {who.cap} gets {b} {item} from {who2}.
                {who} had {c} {thing} and {a} {item}. {who2} gave {b} {item} to {who}.

                Then {who} buys {d} more {item}.
                {who3} brings {d} more {item}.

                How many {item} does {who} have now?
                How many {item} does {who} end up with?
            """),
        ),
    },
)

ADDITIVE = (_GATHER, _GIVE, _LOSE, _COMPARE, _BEFORE, _ASIDE, _ARRIVE, _LEAVE)
