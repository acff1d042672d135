from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sphere_ray import records
from sphere_ray.records import Candidate, PhaseReport, Problem, Rollout, StageName
from sphere_ray.schema import SCHEMAS, from_table, to_table

# Every field is drawn by its type, so a new field is covered without a change here; small
# collections, because records nest six deep.
PLAIN = {
    bool: st.booleans(),
    str: st.text(max_size=3),
    int: st.integers(-(2**31), 2**31 - 1),
    float: st.floats(allow_nan=False),
    NoneType: st.none(),
}


def drawn(hint):
    args = get_args(hint)
    if get_origin(hint) is tuple:
        return st.lists(drawn(args[0]), max_size=2).map(tuple)
    if get_origin(hint) is Mapping:
        return st.dictionaries(drawn(args[0]), drawn(args[1]), max_size=2)
    if get_origin(hint) is UnionType:
        return st.one_of(*map(drawn, args))
    if is_dataclass(hint):
        return st.builds(hint, **{name: drawn(kind) for name, kind in get_type_hints(hint).items()})
    return PLAIN[hint] if hint in PLAIN else st.sampled_from(hint)


DRAWN = {cls: st.lists(drawn(cls), max_size=3) for cls in SCHEMAS}


@pytest.mark.parametrize("cls", SCHEMAS)
def test_schemas_name_the_fields_of_the_records(cls):
    assert SCHEMAS[cls].names == [field.name for field in fields(cls)]


def test_every_record_has_a_schema():
    declared = {
        value
        for value in vars(records).values()
        if isinstance(value, type) and hasattr(value, "__dataclass_fields__")
    }
    assert declared == set(SCHEMAS)


@pytest.mark.parametrize("cls", SCHEMAS)
def test_nested_structs_are_the_records_own_schemas(cls):
    hints = {name: str(hint) for name, hint in get_type_hints(cls).items()}
    for field in SCHEMAS[cls]:
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        if pa.types.is_struct(kind):
            (inner,) = (c for c in SCHEMAS if f"{c.__module__}.{c.__name__}" in hints[field.name])
            assert kind == pa.struct(list(SCHEMAS[inner]))


@pytest.mark.parametrize("cls", SCHEMAS)
@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_records_come_back_as_they_went(cls, data):
    made = data.draw(DRAWN[cls])
    table = to_table(made, cls)
    assert table.schema == SCHEMAS[cls]
    table.validate(full=True)
    assert from_table(table, cls) == made


@given(DRAWN[Rollout], DRAWN[Rollout], st.integers(0, 4), st.integers(0, 4))
@settings(deadline=None, max_examples=20)
def test_slices_and_chunks_come_back_too(first, second, start, length):
    table = pa.concat_tables([to_table(first, Rollout), to_table(second, Rollout)])
    assert from_table(table, Rollout) == first + second
    assert from_table(table.slice(start, length), Rollout) == (first + second)[start:][:length]


def test_rollouts_survive_parquet(tmp_path):
    made = [
        Rollout(problem=Problem(problem_id="a", question="q", answer="4", source="s")),
        Rollout(
            problem=Problem(
                problem_id="b", question="q", answer="4", source="s", family="sum", level=2
            ),
            route=("self_generation:pair",),
            error="RequestError: refused",
        ),
    ]
    pq.write_table(to_table(made, Rollout), tmp_path / "r.parquet")
    assert from_table(pq.read_table(tmp_path / "r.parquet"), Rollout) == made


def test_values_that_are_absent_differ_from_no_values():
    plain = {"text": "a", "token_ids": (1,), "logprob": -0.1, "stop_reason": "end"}
    given_values = [None, (), (1.0, 0.0)]
    made = [Candidate(**plain, values=values) for values in given_values]
    assert [c.values for c in from_table(to_table(made, Candidate), Candidate)] == given_values


def test_enums_are_plain_strings_in_the_table_and_enums_again_outside():
    report = PhaseReport(
        phase=StageName.DIVERSITY, fingerprint="f", rows_in=1, rows_out=1, seconds=0.5
    )
    table = to_table([report], PhaseReport)
    assert table["phase"].to_pylist() == ["diversity"]
    assert table.schema.field("phase").type == pa.string()


def test_seeds_of_63_bits_fit():
    seed = SCHEMAS[records.Chain].field("seed").type
    assert pa.scalar(2**63 - 1, seed).as_py() == 2**63 - 1


def test_other_columns_are_ignored_and_missing_ones_refused():
    problem = Problem(problem_id="a", question="q", answer="4", source="s")
    table = to_table([problem], Problem)
    assert from_table(table.append_column("extra", pa.array([1])), Problem) == [problem]
    with pytest.raises(KeyError, match="answer"):
        from_table(table.drop_columns(["answer"]), Problem)


def test_large_strings_of_other_writers_are_cast():
    problem = Problem(problem_id="a", question="q", answer="4", source="s")
    table = to_table([problem], Problem)
    large = pa.schema(
        [f.with_type(pa.large_string()) if f.type == pa.string() else f for f in table.schema]
    )
    assert from_table(table.cast(large), Problem) == [problem]
