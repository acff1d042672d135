from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sphere_ray import records
from sphere_ray.records import (
    Candidate,
    Dropped,
    EvaluationRow,
    LabelledStep,
    PreferencePair,
    Problem,
    Rollout,
    StageName,
)
from sphere_ray.schema import from_table, schema_of, to_table

ROWS = [Problem, Rollout, PreferencePair, Dropped, EvaluationRow, LabelledStep, Candidate]

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
    if get_origin(hint) is UnionType:
        return st.one_of(*map(drawn, args))
    if is_dataclass(hint):
        return st.builds(hint, **{name: drawn(kind) for name, kind in get_type_hints(hint).items()})
    return PLAIN[hint] if hint in PLAIN else st.sampled_from(hint)


DRAWN = {cls: st.lists(drawn(cls), max_size=3) for cls in ROWS}


@pytest.mark.parametrize("cls", ROWS)
def test_columns_are_the_fields_in_their_order(cls):
    assert schema_of(cls).names == [field.name for field in fields(cls)]


def test_types_are_those_that_files_of_earlier_runs_have():
    candidate = {
        "text": pa.string(),
        "token_ids": pa.list_(pa.int32()),
        "logprob": pa.float64(),
        "stop_reason": pa.string(),
        "reward": pa.float64(),
        "values": pa.list_(pa.float64()),
        "audit": pa.float64(),
    }
    completion = {
        "text": pa.large_string(),  # a rollout has so many that plain offsets could overflow
        "token_ids": pa.large_list(pa.int32()),
        "logprob": pa.float64(),
        "stop_reason": pa.large_string(),
        "verdict": pa.large_string(),
    }
    candidate["completions"] = pa.list_(pa.struct(list(completion.items())))
    assert schema_of(Candidate) == pa.schema(list(candidate.items()))
    assert schema_of(Problem).field("level").type == pa.int64()
    assert schema_of(LabelledStep).field("final").type == pa.bool_()
    steps = schema_of(records.Chain).field("steps").type
    siblings = pa.list_(pa.struct(list(candidate.items())))
    assert steps.value_type.field("candidates").type == siblings


@pytest.mark.parametrize("cls", ROWS)
@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_records_come_back_as_they_went(cls, data):
    made = data.draw(DRAWN[cls])
    table = to_table(made, cls)
    assert table.schema == schema_of(cls)
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
    dropped = Dropped(
        pair_id="a",
        problem_id="p",
        stage=StageName.DIVERSITY,
        chosen_chain="c",
        rejected_chain="d",
        reason="too_long",
    )
    table = to_table([dropped], Dropped)
    assert table["stage"].to_pylist() == ["diversity"]
    assert table.schema.field("stage").type == pa.string()
    assert from_table(table, Dropped)[0].stage is StageName.DIVERSITY


def test_a_table_of_pairs_can_pass_two_to_the_31_token_ids_and_characters():
    def leaves(kind):
        if pa.types.is_struct(kind):
            return [leaf for field in kind for leaf in leaves(field.type)]
        return [kind]

    for kind in (field.type for field in schema_of(PreferencePair)):
        inner = kind.value_type if pa.types.is_large_list(kind) else kind
        assert not pa.types.is_list(kind)
        assert not any(pa.types.is_string(leaf) for leaf in leaves(inner))


def test_pairs_of_earlier_runs_are_read_too(tmp_path):
    pair = PreferencePair(
        pair_id="a",
        problem_id="p",
        stage=StageName.DIVERSITY,
        prompt=(),
        chosen="x",
        rejected="y",
        chosen_ids=(1, 2),
    )
    table = to_table([pair], PreferencePair)
    small = pa.schema([f.with_type(_small(f.type)) for f in table.schema])
    pq.write_table(table.cast(small), tmp_path / "pairs.parquet")
    assert from_table(pq.read_table(tmp_path / "pairs.parquet"), PreferencePair) == [pair]


def _small(kind):
    if pa.types.is_large_list(kind):
        return pa.list_(_small(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(_small(f.type)) for f in kind])
    return pa.string() if pa.types.is_large_string(kind) else kind


def test_seeds_of_63_bits_fit():
    seed = schema_of(records.Chain).field("seed").type
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
