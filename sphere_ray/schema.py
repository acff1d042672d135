"""Records as Arrow tables: the type hints of a record declare its schema, data never does.

Conversion is columnar in both directions, so token ids never become Python rows of dicts.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from itertools import accumulate, chain, pairwise
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa

from sphere_ray.records import Completion, PreferencePair

Record = TypeVar("Record")
Decoder = Callable[[pa.Array], list[Any]]

_LARGE = {PreferencePair, Completion}
"""One table may hold so many of these that their token ids or characters are more than 2^31, which
is where the offsets of plain lists and strings end. A rollout has K completions for each step."""


def schema_of(cls: type[Any]) -> pa.Schema:
    """The schema of a table of records of one class.

    Text and enumerations are strings, numbers have 64 bits, token ids (integers in a tuple) 32.
    Records nest as structs and tuples as lists. Every field may be null.
    """
    large = cls in _LARGE
    return pa.schema([(name, _arrow_type(hint, large)) for name, hint in _hints(cls).items()])


def to_table(records: Sequence[Record], cls: type[Record]) -> pa.Table:
    """Turn records of one class into a table with exactly `schema_of(cls)`; empty is fine."""
    schema = schema_of(cls)
    columns = [_encode(_attributes(records, field.name), field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def from_table(table: pa.Table, cls: type[Record]) -> list[Record]:
    """Turn a table back into records; the inverse of `to_table`, extra columns are ignored.

    Raises:
        KeyError: a column of the schema is missing.
        pa.ArrowInvalid: a column has values its type in the schema cannot hold.
    """
    schema = schema_of(cls)
    table = table.select(schema.names).cast(schema)
    decode = _decoder(cls)
    return [record for batch in table.to_batches() for record in decode(batch.to_struct_array())]


def _hints(cls: Any) -> dict[str, Any]:
    """The type of each field, in order; for an optional field the type it has when present."""
    hints = get_type_hints(cls)
    return {field.name: _present(hints[field.name]) for field in fields(cls)}


def _present(hint: Any) -> Any:
    if get_origin(hint) is UnionType:
        (hint,) = (arg for arg in get_args(hint) if arg is not NoneType)
    return hint


def _arrow_type(hint: Any, large: bool) -> pa.DataType:
    if is_dataclass(hint):
        large = large or hint in _LARGE
        return pa.struct([(n, _arrow_type(h, large)) for n, h in _hints(hint).items()])
    if get_origin(hint) is tuple:
        item = _present(get_args(hint)[0])
        kind = pa.int32() if item is int else _arrow_type(item, large)
        return pa.large_list(kind) if large else pa.list_(kind)
    if issubclass(hint, str):
        return pa.large_string() if large else pa.string()
    return {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}[hint]


def _attributes(records: Sequence[Any], name: str) -> list[Any]:
    return list(map(attrgetter(name), records))


def _encode(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_struct(kind):
        # Records nest only where they are never null, so a struct column needs no null mask.
        columns = [_encode(_attributes(values, field.name), field.type) for field in kind]
        return pa.StructArray.from_arrays(columns, fields=list(kind))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        large = pa.types.is_large_list(kind)
        present = [() if value is None else value for value in values]
        lengths = accumulate(map(len, present), initial=0)
        offsets = pa.array(lengths, pa.int64() if large else pa.int32())
        flat = _encode(list(chain.from_iterable(present)), kind.value_type)
        absent = [value is None for value in values]
        mask = pa.array(absent) if any(absent) else None
        array = pa.LargeListArray if large else pa.ListArray
        return array.from_arrays(offsets, flat, type=kind, mask=mask)
    return pa.array(values, kind)


def _decoder(hint: Any) -> Decoder:
    if is_dataclass(hint):
        return _record_decoder(hint)
    if get_origin(hint) is tuple:
        return _tuple_decoder(_decoder(_present(get_args(hint)[0])))
    if issubclass(hint, StrEnum):
        members = {None: None, **{member.value: member for member in hint}}
        return lambda array: [members[value] for value in array.to_pylist()]
    return _decode_plain


def _record_decoder(cls: Any) -> Decoder:
    decoders = {name: _decoder(hint) for name, hint in _hints(cls).items()}

    def decode(array: pa.Array) -> list[Any]:
        # `flatten` (unlike `field`) respects the offset of a sliced array.
        names = [array.type.field(i).name for i in range(array.type.num_fields)]
        columns = dict(zip(names, array.flatten(), strict=True))
        values = [decoders[name](columns[name]) for name in decoders]
        return [cls(**dict(zip(decoders, row, strict=True))) for row in zip(*values, strict=True)]

    return decode


def _tuple_decoder(decode_item: Decoder) -> Decoder:
    def decode(array: pa.Array) -> list[Any]:
        items = decode_item(array.flatten())
        ends = list(accumulate(array.value_lengths().fill_null(0).to_pylist(), initial=0))
        values: list[Any] = [tuple(items[start:end]) for start, end in pairwise(ends)]
        if array.null_count:
            values = [
                value if valid else None
                for value, valid in zip(values, array.is_valid().to_pylist(), strict=True)
            ]
        return values

    return decode


def _decode_plain(array: pa.Array) -> list[Any]:
    if array.null_count or not pa.types.is_primitive(array.type):
        values: list[Any] = array.to_pylist()
    else:
        # Ten times faster than to_pylist, which goes through one scalar object per value.
        values = array.to_numpy(zero_copy_only=False).tolist()
    return values
