"""Reads YAML written by strangers: in bounded time, or one sentence about what is wrong."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sphere_ray.errors import ConfigError
from sphere_ray.untrusted import read_bounded

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 32
_MAX_NODES = 20_000
_MAX_NUMBER_CHARS = 100

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_document(path: Path) -> dict[str, Any]:
    """Read a file that holds one mapping.

    Raises:
        ConfigError: it cannot be read, is endless or too long, or is not a mapping in plain YAML.
    """
    try:
        document = parse_yaml(read_bounded(path, _MAX_BYTES).decode("utf-8"))
    except FileNotFoundError:
        trouble = f"{path} does not exist; check the path (examples: jobs/configs)"
    except OSError as error:
        trouble = f"{path} cannot be read: {error.strerror}; give a readable YAML file"
    except yaml.YAMLError as error:
        trouble = f"{path}{whereabouts(error)}; correct the YAML there"
    except UnicodeDecodeError:
        trouble = f"{path} is not UTF-8 text; save it as UTF-8"
    except ValueError as error:  # it never ends, or its path has a NUL
        trouble = f"{str(path)!r} cannot be read: {error}; give the path of a YAML file"
    else:
        if isinstance(document, dict):
            return document
        trouble = (
            f"{path} must hold a mapping of keys to values, "
            f"but it holds {shown(document)}; see jobs/configs for examples"
        )
    raise ConfigError(f"configuration file {trouble}")


def parse_yaml(text: str) -> Any:
    """Parse plain YAML. Parts that aliases share are copied, so that each can be changed alone.

    Raises:
        yaml.YAMLError: says where, if known; also for nesting, repetition by aliases and numbers
            that no settings have.
    """
    try:
        return _unshared(yaml.load(text, Loader=_StrictLoader))
    except ValueError as error:  # e.g. 2024-13-01, which looks like a date
        raise yaml.YAMLError(str(error)) from None


def whereabouts(error: yaml.YAMLError) -> str:
    """`, line 3, column 5: what is wrong`, without a place where none is known."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    position = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{position}: {problem}"


def shown(value: Any) -> str:
    """A value in the words of a message: short, whatever it holds."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a group of keys"
        case list():
            return "a list"
        case _:
            text = repr(value)
            return text if len(text) <= 200 else f"{text[:150]}...{text[-30:]}"


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without tags, in which a key may appear once only and aliases may not explode."""

    def __init__(self, stream: str) -> None:
        """Begin with nothing read."""
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}
        """How many nodes each node is, with all that aliases repeat, by the node's identity."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one node and all below it; plain YAML would do so without any bound."""
        untyped: Any = self
        event = untyped.peek_event()
        is_alias = isinstance(event, yaml.AliasEvent)
        if not is_alias and getattr(event, "tag", None) is not None:
            raise _trouble(f"the tag {event.tag} is not needed here; remove it", event)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _trouble(f"groups are nested more than {_MAX_DEPTH} deep", event)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if is_alias:
            if id(node) not in self._sizes:
                raise _trouble("an alias is part of what it repeats", event)
            return node
        size = self._sizes[id(node)] = self._size(node, event)
        if size > _MAX_NODES or len(self._sizes) > _MAX_NODES:
            raise _trouble(f"there are more than {_MAX_NODES:,} values, aliases counted", event)
        return node

    def _size(self, node: yaml.Node, event: yaml.Event) -> int:
        match node:
            case yaml.ScalarNode():
                if _NO_TEXT.search(node.value):
                    raise _trouble("a character is no text (NUL, or half of a pair)", event)
                if node.tag in _NUMBERS and len(node.value) > _MAX_NUMBER_CHARS:
                    raise _trouble(f"a number has {len(node.value):,} digits", event)
                return 1
            case yaml.MappingNode():
                return 1 + sum(self._sizes[id(each)] for pair in node.value for each in pair)
            case _:
                return 1 + sum(self._sizes[id(each)] for each in node.value)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping; plain YAML would keep the last of two equal keys in silence."""
        seen = set()
        for key in (k for k, _ in node.value if isinstance(k, yaml.ScalarNode)):
            if key.value in seen:
                raise _trouble(f"key '{key.value}' appears twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _trouble(problem: str, at: Any) -> yaml.MarkedYAMLError:
    """An error at a node or event."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def _unshared(value: Any) -> Any:
    match value:
        case dict():
            return {key: _unshared(inner) for key, inner in value.items()}
        case list():
            return [_unshared(inner) for inner in value]
        case _:
            return value
