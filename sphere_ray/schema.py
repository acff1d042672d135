"""Records as Arrow tables: one explicit schema per record, nothing inferred.

Conversion is columnar in both directions (token ids never become Python rows of dicts), driven
by the Arrow type on the way in and by the dataclass fields on the way out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from itertools import accumulate, chain, pairwise
from operator import attrgetter
from types import MappingProxyType, NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa

from sphere_ray.records import (
    Candidate,
    Chain,
    EvaluationRow,
    LabelledStep,
    Message,
    ModelRef,
    PhaseReport,
    PoolUse,
    PreferencePair,
    Problem,
    Rollout,
    ScoreRow,
    Step,
    StepScore,
)

Record = TypeVar("Record")
Decoder = Callable[[pa.Array], list[Any]]

_TOKEN_IDS = pa.list_(pa.int32())

_MESSAGE = pa.schema([("role", pa.string()), ("content", pa.string())])

_PROBLEM = pa.schema(
    [
        ("problem_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("source", pa.string()),
        ("family", pa.string()),
        ("level", pa.int64()),
    ]
)

_CANDIDATE = pa.schema(
    [
        ("text", pa.string()),
        ("token_ids", _TOKEN_IDS),
        ("logprob", pa.float64()),
        ("stop_reason", pa.string()),
        ("reward", pa.float64()),
        ("values", pa.list_(pa.float64())),
        ("audit", pa.float64()),
    ]
)

_STEP = pa.schema(
    [
        ("candidates", pa.list_(pa.struct(list(_CANDIDATE)))),
        ("chosen", pa.int32()),
        ("advantage", pa.float64()),
    ]
)

_CHAIN = pa.schema(
    [
        ("chain_id", pa.string()),
        ("stage", pa.string()),
        ("branch", pa.string()),
        ("model", pa.string()),
        ("steps", pa.list_(pa.struct(list(_STEP)))),
        ("answer", pa.string()),
        ("verdict", pa.string()),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int64()),
        ("seed", pa.int64()),
        ("parent_id", pa.string()),
    ]
)

_PREFERENCE_PAIR = pa.schema(
    [
        ("pair_id", pa.string()),
        ("problem_id", pa.string()),
        ("stage", pa.string()),
        ("prompt", pa.list_(pa.struct(list(_MESSAGE)))),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("chosen_ids", _TOKEN_IDS),
        ("rejected_ids", _TOKEN_IDS),
        ("chosen_reward", pa.float64()),
        ("rejected_reward", pa.float64()),
        ("chosen_chain", pa.string()),
        ("rejected_chain", pa.string()),
        ("prefix", pa.string()),
        ("prefix_ids", _TOKEN_IDS),
    ]
)

_ROLLOUT = pa.schema(
    [
        ("problem", pa.struct(list(_PROBLEM))),
        ("chains", pa.list_(pa.struct(list(_CHAIN)))),
        ("route", pa.list_(pa.string())),
        ("pairs", pa.list_(pa.struct(list(_PREFERENCE_PAIR)))),
        ("dropped", pa.list_(pa.string())),
        ("tokens", pa.int64()),
        ("error", pa.string()),
    ]
)

_EVALUATION_ROW = pa.schema(
    [
        ("problem_id", pa.string()),
        ("family", pa.string()),
        ("level", pa.int64()),
        ("response", pa.string()),
        ("answer", pa.string()),
        ("verdict", pa.string()),
        ("num_tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("sample_verdicts", pa.list_(pa.string())),
        ("sample_answers", pa.list_(pa.string())),
    ]
)

_LABELLED_STEP = pa.schema(
    [
        ("problem_id", pa.string()),
        ("question", pa.string()),
        ("prefix", pa.list_(pa.string())),
        ("text", pa.string()),
        ("final", pa.bool_()),
        ("value", pa.float64()),
        ("outcomes", pa.int64()),
        ("reward", pa.float64()),
    ]
)

_STEP_SCORE = pa.schema(
    [
        ("prefix", pa.list_(pa.string())),
        ("text", pa.string()),
        ("reward", pa.float64()),
    ]
)

_SCORE_ROW = pa.schema(
    [
        ("problem_id", pa.string()),
        ("scores", pa.list_(pa.struct(list(_STEP_SCORE)))),
        ("tokens", pa.int64()),
        ("error", pa.string()),
    ]
)

_MODEL_REF = pa.schema(
    [
        ("path", pa.string()),
        ("iteration", pa.int64()),
        ("fingerprint", pa.string()),
        ("parent", pa.string()),
    ]
)

_POOL_USE = pa.schema(
    [
        ("name", pa.string()),
        ("replicas", pa.int32()),
        ("seconds", pa.float64()),
        ("busy_s", pa.float64()),
        ("generated_tokens", pa.int64()),
        ("prefix_queries", pa.int64()),
        ("prefix_hits", pa.int64()),
    ]
)

_PHASE_REPORT = pa.schema(
    [
        ("phase", pa.string()),
        ("fingerprint", pa.string()),
        ("rows_in", pa.int64()),
        ("rows_out", pa.int64()),
        ("seconds", pa.float64()),
        ("dropped", pa.map_(pa.string(), pa.int64())),
        ("tokens", pa.int64()),
        ("pools", pa.list_(pa.struct(list(_POOL_USE)))),
    ]
)

SCHEMAS: Mapping[type, pa.Schema] = MappingProxyType(
    {
        Message: _MESSAGE,
        Problem: _PROBLEM,
        Candidate: _CANDIDATE,
        Step: _STEP,
        Chain: _CHAIN,
        Rollout: _ROLLOUT,
        EvaluationRow: _EVALUATION_ROW,
        PreferencePair: _PREFERENCE_PAIR,
        LabelledStep: _LABELLED_STEP,
        StepScore: _STEP_SCORE,
        ScoreRow: _SCORE_ROW,
        ModelRef: _MODEL_REF,
        PoolUse: _POOL_USE,
        PhaseReport: _PHASE_REPORT,
    }
)


def to_table(records: Sequence[Record], cls: type[Record]) -> pa.Table:
    """Turn records of one class into a table with exactly `SCHEMAS[cls]`; empty is fine."""
    schema = SCHEMAS[cls]
    columns = [_encode(_attributes(records, field.name), field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def from_table(table: pa.Table, cls: type[Record]) -> list[Record]:
    """Turn a table back into records; the inverse of `to_table`, extra columns are ignored.

    Raises:
        KeyError: a column of the schema is missing.
        pa.ArrowInvalid: a column has values its type in the schema cannot hold.
    """
    schema = SCHEMAS[cls]
    table = table.select(schema.names).cast(schema)
    decode = _record_decoder(cls)
    return [record for batch in table.to_batches() for record in decode(batch.to_struct_array())]


def _attributes(records: Sequence[Any], name: str) -> list[Any]:
    return list(map(attrgetter(name), records))


def _encode(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_struct(kind):
        # Records nest only where they are never null, so a struct column needs no null mask.
        columns = [_encode(_attributes(values, field.name), field.type) for field in kind]
        return pa.StructArray.from_arrays(columns, fields=list(kind))
    if pa.types.is_map(kind):
        present = [value or {} for value in values]
        keys = list(chain.from_iterable(present))
        items = list(chain.from_iterable(value.values() for value in present))
        return pa.MapArray.from_arrays(
            _offsets(present), pa.array(keys, kind.key_type), pa.array(items, kind.item_type)
        )
    if pa.types.is_list(kind):
        present = [() if value is None else value for value in values]
        flat = _encode(list(chain.from_iterable(present)), kind.value_type)
        absent = [value is None for value in values]
        mask = pa.array(absent) if any(absent) else None
        return pa.ListArray.from_arrays(_offsets(present), flat, type=kind, mask=mask)
    return pa.array(values, kind)


def _offsets(values: Sequence[Any]) -> pa.Array:
    return pa.array(accumulate(map(len, values), initial=0), pa.int32())


def _record_decoder(cls: type[Any]) -> Decoder:
    hints = get_type_hints(cls)
    decoders = {field.name: _decoder(hints[field.name]) for field in fields(cls)}

    def decode(array: pa.Array) -> list[Any]:
        # `flatten` (unlike `field`) respects the offset of a sliced array.
        names = [array.type.field(i).name for i in range(array.type.num_fields)]
        columns = dict(zip(names, array.flatten(), strict=True))
        values = [decoders[name](columns[name]) for name in decoders]
        return [cls(**dict(zip(decoders, row, strict=True))) for row in zip(*values, strict=True)]

    return decode


def _decoder(hint: Any) -> Decoder:
    if get_origin(hint) is UnionType:
        (hint,) = (arg for arg in get_args(hint) if arg is not NoneType)
    if get_origin(hint) is tuple:
        return _tuple_decoder(_decoder(get_args(hint)[0]))
    if get_origin(hint) is not None:
        return _decode_map
    if isinstance(hint, type) and is_dataclass(hint):
        return _record_decoder(hint)
    if issubclass(hint, StrEnum):
        return _enum_decoder(hint)
    return _decode_plain


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


def _enum_decoder(enum: type[StrEnum]) -> Decoder:
    members = {member.value: member for member in enum}
    return lambda array: [members[value] for value in array.to_pylist()]


def _decode_map(array: pa.Array) -> list[Any]:
    return [dict(value) for value in array.to_pylist()]


def _decode_plain(array: pa.Array) -> list[Any]:
    if array.null_count or pa.types.is_string(array.type):
        values: list[Any] = array.to_pylist()
    else:
        # Ten times faster than to_pylist, which goes through one scalar object per value.
        values = array.to_numpy(zero_copy_only=False).tolist()
    return values
