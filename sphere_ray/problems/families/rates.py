"""Families about prices, rates and multiples."""

from sphere_ray.problems.families.family import Family, Level, told

_SHOP = Family(
    name="shop",
    words={"ware": "ware"},
    levels={
        1: Level(
            operands={"n": (2, 60), "p": (2, 60)},
            steps="cost = n * p",
            limit=300,
            small=12,
            story=told("""
                {who} buys {n} {ware.many}. Each {ware} costs ${p}.
                A {ware} costs ${p}. {who} wants to buy {n} {ware.many}.
                {who} buys {n} {ware.many} at ${p} each.

                How many dollars does {who} pay?
                How much does that cost in dollars?
                How many dollars does {who.she} need?
            """),
        ),
        2: Level(
            operands={"n": (2, 6), "p": (2, 6), "q": (2, 9)},
            steps="cost = n * p; total = cost + q",
            limit=40,
            story=told("""
                {who} buys {n} {ware.many} for ${p} each and a {ware2} for ${q}.
                A {ware} costs ${p} and a {ware2} costs ${q}. {who} buys {n} {ware.many} and one
                    {ware2}.
                {who} pays ${q} for a {ware2} and also buys {n} {ware.many} at ${p} each.

                How many dollars does {who} pay?
                What is the total cost in dollars?
            """),
        ),
        3: Level(
            operands={"n": (2, 5), "p": (2, 6), "k": (2, 5), "q": (2, 6)},
            steps="first = n * p; second = k * q; total = first + second",
            limit=40,
            story=told("""
                {who} buys {n} {ware.many} for ${p} each and {k} {ware2.many} for ${q} each.
                A {ware} costs ${p} and a {ware2} costs ${q}. {who} buys {n} {ware.many} and {k}
                    {ware2.many}.

                How many dollars does {who} pay?
                What is the total cost in dollars?
            """),
        ),
        4: Level(
            operands={"n": (2, 5), "p": (2, 6), "k": (2, 5), "q": (2, 6), "m": (15, 50)},
            steps="first = n * p; second = k * q; total = first + second; change = m - total",
            limit=50,
            story=told("""
                {who} has ${m} and buys {n} {ware.many} for ${p} each and {k} {ware2.many} for ${q}
                    each.
                A {ware} costs ${p} and a {ware2} costs ${q}. {who} has ${m} and buys {n}
                    {ware.many} and {k} {ware2.many}.

                How many dollars does {who} have left?
                How many dollars are left?
            """),
        ),
    },
)

_TIMES = Family(
    name="times",
    words={"item": "collectible"},
    levels={
        1: Level(
            operands={"a": (2, 100), "k": (2, 12)},
            steps="other = a * k",
            limit=300,
            small=12,
            story=told("""
                {who} has {a} {item}. {who2} has {k} times as many {item} as {who}.
                {who} found {a} {item}, and {who2} found {k} times as many.

                How many {item} does {who2} have?
                How many {item} is that for {who2}?
            """),
        ),
        2: Level(
            operands={"a": (2, 16), "k": (2, 5)},
            steps="other = a * k; total = a + other",
            limit=60,
            story=told("""
                {who} has {a} {item}. {who2} has {k} times as many {item} as {who}.
                {who} found {a} {item}, and {who2} found {k} times as many.

                How many {item} do they have together?
                How many {item} do {who} and {who2} have in total?
            """),
        ),
        3: Level(
            operands={"a": (2, 8), "k": (2, 5), "c": (2, 9)},
            steps="other = a * k; total = a + other; all = total + c",
            limit=40,
            story=told("""
                {who} has {a} {item}. {who2} has {k} times as many {item} as {who}.

                {who3} brings {c} more {item}.
                They find {c} more {item} later.

                How many {item} are there now in total?
                How many {item} is that altogether?
            """),
        ),
    },
)

_EARN = Family(
    name="earn",
    words={"job": "job"},
    levels={
        1: Level(
            operands={"h": (2, 60), "w": (2, 60)},
            steps="pay = h * w",
            limit=300,
            small=12,
            story=told("""
                {who} earns ${w} an hour for {job}. {who.cap} works {h} hours.
                {who} gets ${w} for every hour of {job} and works for {h} hours.

                How many dollars does {who} earn?
                How much money does {who.she} make?
            """),
        ),
        2: Level(
            operands={"h": (2, 6), "w": (2, 6), "s": (2, 9)},
            steps="pay = h * w; total = pay + s",
            limit=40,
            story=told("""
                {who} has saved ${s}. {who.cap} then works {h} hours {job} for ${w} an hour.
                {who} earns ${w} an hour for {job}. {who.cap} works {h} hours, and {who.she}
                    already had ${s}.

                How many dollars does {who} have now?
                How much money does {who} have altogether?
            """),
        ),
        3: Level(
            operands={"h": (2, 6), "w": (2, 6), "s": (2, 9), "c": (2, 9)},
            steps="pay = h * w; total = pay + s; all = total + c",
            limit=40,
            story=told("""
                {who} has saved ${s}. {who.cap} then works {h} hours {job} for ${w} an hour and
                    finds ${c} in a coat.
                {who} had ${s} and earned ${w} an hour for {h} hours of {job}. {who2} then gave
                    {who} ${c} as a present.

                How many dollars does {who} have now?
                How much money does {who} have altogether?
            """),
        ),
    },
)

_READ = Family(
    name="read",
    unseen=True,
    words={"text": "text"},
    levels={
        1: Level(
            operands={"d": (2, 60), "p": (2, 60)},
            steps="pages = d * p",
            limit=300,
            small=12,
            story=told("""
                {who} reads {p} pages of a {text} every day for {d} days.
                Every evening {who} reads {p} pages of a {text}. {who.cap} does so {d} times.

                How many pages does {who} read?
                How many pages is that in total?
            """),
        ),
        2: Level(
            operands={"d": (2, 6), "p": (2, 6), "q": (2, 9)},
            steps="pages = d * p; total = pages + q",
            limit=40,
            story=told("""
                {who} reads {p} pages of a {text} a day for {d} days and then {q} more.
                {who} read {q} pages of a {text} on Sunday. After that {who.she} read {p} pages on
                    each of {d} days.

                How many pages does {who} read?
                How many pages is that in total?
            """),
        ),
        3: Level(
            operands={"t": (6, 20), "a": (2, 6), "b": (2, 6), "c": (2, 6)},
            steps="first = a + b; pages = first + c; left = t - pages",
            story=told("""
                A {text} has {t} pages. {who} reads {a} pages on Monday, {b} on Tuesday and {c} on
                    Wednesday.
                {who} reads a {text} of {t} pages: first {a} pages, then {b} and then {c}.

                How many pages are left to read?
                How many pages does {who} still have to read?
            """),
        ),
    },
)

RATES = (_SHOP, _TIMES, _EARN, _READ)
