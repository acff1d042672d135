"""Configurations by strangers: each is one sentence, and soon."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sphere_ray import storage
from sphere_ray.config import load_config
from sphere_ray.config.documents import parse_yaml
from sphere_ray.errors import ConfigError, RunDirectoryError
from tests.linear_time import linear_time, repeated

MOST_SECONDS = 10  # of this process's CPU; on an idle machine all take less than 1


@contextmanager
def in_time() -> Iterator[None]:
    begin = time.process_time()
    yield
    assert time.process_time() - begin < MOST_SECONDS


def doubled(kind: str, depth: int) -> str:
    """`depth` lists or mappings, each made of two of the one before."""
    lines = ["a0: &a0 {k: v}" if kind == "merge" else "a0: &a0 [v, v]"]
    for i in range(1, depth):
        before = f"*a{i - 1}"
        value = f"{{<<: [{before}, {before}]}}" if kind == "merge" else f"[{before}, {before}]"
        lines.append(f"a{i}: &a{i} {value}")
    return "\n".join(lines)


HOSTILE = {
    "nested lists": "name: " + "[" * 1000 + "]" * 1000,
    "nested lists that never close": "name: " + "[" * 500_000,
    "nested groups": "name: " + "{a: " * 1000 + "1" + "}" * 1000,
    "nested by lines": "\n".join(" " * i + "a:" for i in range(1000)),
    "nested sequences by lines": "- " * 2000 + "a",
    "merge keys": doubled("merge", 40),
    "aliases of lists": doubled("list", 40),
    "an alias of itself": "name: &a [*a]",
    "a merge of itself": "name: &a {<<: *a}",
    "an unknown alias": "name: *nobody",
    "a bool of nonsense": "name: !!bool nonsense",
    "an int of nothing": "seed: !!int ''",
    "an int of a list": "seed: !!int [1]",
    "a float of nonsense": "seed: !!float x",
    "a timestamp of nonsense": "name: !!timestamp x",
    "binary": "name: !!binary '====='",
    "a set": "name: !!set {a, b}",
    "an object": "name: !!python/object/apply:os.system ['false']",
    "a tag of one's own": "name: !x y",
    "a null of text": "name: !!null x",
    "a tag directive": "%TAG ! tag:evil.org,2000:\n---\nname: !x y",
    "a version directive": "%YAML 9.9\n---\nname: x",
    "an integer of 4,000 digits": "seed: " + "9" * 4000,
    "an integer of 5,000 digits": "seed: " + "9" * 5000,
    "a float of 4,000 digits": "seed: 0." + "9" * 4000,
    "sixties": "seed: 1" + ":59" * 200_000,
    "no number after all": "seed: 0x_",
    "a date that is none": "name: 2024-13-01",
    "a date": "name: 2024-01-01",
    "NUL": "name: x\0y",
    "NUL in a path": 'run_dir: "x\\0y"',
    "half a pair": 'name: "\\ud83d"',
    "half a pair as a key": '"\\udc80": 1',
    "control characters": "name: x\x07y",
    "a key that is a list": "? [a, b]\n: 1",
    "a key that is a group": "{a: 1}: 2",
    "a key that is a number": "1: 2",
    "a key that is null": "~: 2",
    "a key of many lines": '"a\\nb\\nc": 1',
    "a key of 500,000 characters": "k" * 500_000 + ": 1",
    "a value of 500,000 characters": "seed: " + "x" * 500_000,
    "a key twice": "name: x\nname: y",
    "a key twice in a group": "training: {beta: 1, beta: 2}",
    "two documents": "name: x\n---\nname: y",
    "tabs": "name:\n\t- x",
    "an open quote": 'name: "x',
    "a colon too many": "name: a: b: c",
    "anchors": "".join(f"k{i}: &a{i} x\n" for i in range(10_000)),
    "many keys": "".join(f"k{i}: x\n" for i in range(20_000)),
    "a list of many": "name: [" + "x," * 200_000 + "]",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(HOSTILE[kind])
    with in_time(), pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert len(message) < 3000
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_file_that_never_ends_is_one_sentence(tmp_path: Path) -> None:
    pipe, huge = tmp_path / "pipe.yaml", tmp_path / "huge.yaml"
    os.mkfifo(pipe)
    with huge.open("wb") as file:
        file.truncate(100 << 20)  # a sparse file
    for path, expected in (
        (pipe, "pipe or a device"),
        (Path("/dev/zero"), "pipe or a device"),
        (huge, "more than 1 MiB"),
        (Path("/proc/self/mem"), "cannot be read"),
        (tmp_path / "a\0b.yaml", "cannot be read"),
        (tmp_path / ("x" * 300), "cannot be read"),
        (tmp_path / "\udcff.yaml", "does not exist"),
    ):
        with in_time(), pytest.raises(ConfigError, match=expected) as caught:
            load_config(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        ".".join(["a"] * 1000) + "=1",
        "training." + ".".join(["a"] * 20_000) + "=1",
        "name=" + "[" * 1000,
        "name=" + "{a: " * 1000,
        "seed=" + "9" * 5000,
        "seed=1" + ":59" * 20_000,
        "name=!!bool x",
        "name=\udc80",
        "name=\0",
        "=",
        "." * 1000 + "=1",
        "name=" + "x y" * 40_000,
        "method.prompts.examples.99999999999999999999.x=1",
        "method.prompts.examples.\u0663.x=1",
    ],
    ids=lambda override: override[:12].encode("ascii", "replace").decode(),
)
def test_a_hostile_override_is_one_short_sentence(
    tmp_path: Path, minimal: dict[str, Any], override: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(minimal))
    with in_time(), pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("index", ["9" * 5000, "\u0663", "-1", "1", "1_0", "+0", ""])
def test_an_entry_of_a_list_that_is_none_is_one_sentence(
    tmp_path: Path, minimal: dict[str, Any], index: str
) -> None:
    path = tmp_path / "run.yaml"
    examples = [{"question": "1+1?", "response": "2"}]
    path.write_text(yaml.safe_dump(minimal | {"method": {"prompts": {"examples": examples}}}))
    load_config(path, ["method.prompts.examples.0.question=2+2?"])
    with in_time(), pytest.raises(ConfigError) as caught:
        load_config(path, [f"method.prompts.examples.{index}.question=x"])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "run_dir", ["a\0b", "a\nb", "a\udc80", "", "~nobody-of-this-name/run", "\x1b[2J", "no://x"]
)
def test_a_run_directory_that_can_have_no_such_name_is_one_sentence(run_dir: str) -> None:
    with pytest.raises(RunDirectoryError, match="run_dir") as caught:
        storage.resolve(run_dir)
    assert "\n" not in str(caught.value)


def test_an_override_changes_one_place_though_an_alias_shares_it(
    tmp_path: Path, minimal: dict[str, Any]
) -> None:
    path = tmp_path / "run.yaml"
    pool = "engines: {policy: {path: 'tiny:a'}, policy_pool: &p {kv_cache_gib: 1}, small_pool: *p}"
    rest = {name: value for name, value in minimal.items() if name != "engines"}
    path.write_text(f"{yaml.safe_dump(rest)}\n{pool}\n")
    settings = load_config(path, ["engines.small.path=tiny:b", "engines.small_pool.kv_cache_gib=2"])
    assert settings.engines.policy_pool.kv_cache_gib == 1


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text("ab 1:-\u00e9", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner),
    max_leaves=12,
)


@given(plain)
def test_plain_yaml_is_read_as_everyone_reads_it(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value)) == value


@given(st.text(st.sampled_from("a:-[]{}&*!<>?|'\"#%~ \n\t1,") | st.characters(), max_size=200))
def test_any_text_is_settings_or_one_sentence(text: str) -> None:
    with suppress(yaml.YAMLError):
        parse_yaml(text)


PIECES = [
    *("a: ", "- ", "? ", "[", "]", "{", "}", "&a ", "*a", "<<: ", "!!int ", "'", '"', "|", ">"),
    *("\n", "\n  ", " ", "\t", ",", ":", "1", "1:5", "1e", "0x", "#", "x", "---\n", "...\n", "%"),
    *("name: x\n", "training:\n", "  beta: 1\n", "\u00e9", "\u2028", "\0", "\\", "&b [*a, *a]\n"),
]  # fmt: skip


@settings(max_examples=40)
@given(repeated(PIECES, 1 << 15), st.sampled_from(["", "name: x\n", "seed: "]))
def test_a_configuration_is_read_in_linear_time(
    tmp_path_factory: pytest.TempPathFactory, text: str, before: str
) -> None:
    path = tmp_path_factory.mktemp("long") / "run.yaml"
    path.write_text(before + text)
    with linear_time(len(text), micros_a_char=200), pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=40)
@given(st.sampled_from(["name", "training.beta", "engines", "x"]), repeated(PIECES, 1 << 15))
def test_an_override_is_read_in_linear_time(
    tmp_path_factory: pytest.TempPathFactory, key: str, text: str
) -> None:
    path = tmp_path_factory.mktemp("long") / "run.yaml"
    path.write_text("name: x\n")
    for override in (f"{key}={text}", f"{text}=1", text):
        with linear_time(len(text), micros_a_char=200), pytest.raises(ConfigError) as caught:
            load_config(path, [override])
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 2000
