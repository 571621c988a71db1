"""Strict configuration: plain mappings into frozen dataclasses, every error with the dotted name of its field."""

from __future__ import annotations

import copy
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

T = TypeVar("T")


class ConfigError(ValueError):
    """A field that can't be used: its dotted name, its value, and what to do."""

    def __init__(self, field: str, value: Any, advice: str) -> None:
        super().__init__(f"{field}={value!r}: {advice}")
        self.field, self.value, self.advice = field, value, advice


def require(config: Any, field: str, holds: bool, advice: str) -> None:
    """Used by a dataclass to check itself. Raises ConfigError when `holds` is false."""
    if not holds:
        raise ConfigError(field, getattr(config, field), advice)


def numbers(option: str, text: str, advice: str, count: int | None = None) -> list[float]:
    """Numbers above 0 from the text of a command's option, separated by commas; `count` of them.

    Raises:
        ConfigError: for anything else.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < number < math.inf for number in found) or count not in (None, len(found)):
        raise ConfigError(option, text, advice)
    return found


def build(kind: type[T], values: Any, at: str = "") -> T:
    """A dataclass from a mapping, nested dataclasses included.

    Args:
        kind: the dataclass.
        values: a mapping of its fields; what is left out keeps its default.
        at: dotted name of the mapping itself.

    Raises:
        ConfigError: for an unknown, missing, ill-typed or refused field.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(at or "configuration", values, "must be a mapping of fields")
    hints, known = typing.get_type_hints(kind), {field.name: field for field in fields(kind)}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"; did you mean {_join(at, near[0])}?" if near else ""
            raise ConfigError(_join(at, name), value, f"unknown field{hint} (known here: {', '.join(known)})")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(_join(at, name), None, "is missing and has no default: set it")
    given = {name: _convert(hints[name], value, _join(at, name)) for name, value in values.items()}
    try:
        return kind(**given)
    except ConfigError as error:
        if at:
            raise ConfigError(_join(at, error.field), error.value, error.advice) from None
        raise


def _join(at: str, name: Any) -> str:
    return f"{at}.{name}" if at else str(name)


def _convert(kind: Any, value: Any, at: str) -> Any:
    """`value` as a field of type `kind`; numbers may be spelled as text, since YAML reads 1e-5 as text."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, at)
    if is_dataclass(kind):
        return build(kind, value, at)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(at, value, f"must be one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ConfigError(at, value, "must be a list")
        if arguments[-1] is not Ellipsis and len(items) != len(arguments):
            raise ConfigError(at, value, f"must be a list of {len(arguments)}")
        return tuple(_convert(arguments[0], item, f"{at}[{number}]") for number, item in enumerate(items))
    return _plain(kind, value, at)


def _plain(kind: type, value: Any, at: str) -> Any:
    if kind is float and not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            if math.isfinite(number := float(value)):
                return number
        except ValueError:
            pass
    elif type(value) is kind:
        return value
    names = {float: "a finite number", int: "a whole number", bool: "true or false", str: "text"}
    raise ConfigError(at, value, f"must be {names[kind]}")


def read_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file. Raises ConfigError naming the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("config", str(path), f"can't be read ({error.strerror}): give a YAML or JSON file") from error
    except UnicodeDecodeError as error:
        raise ConfigError("config", str(path), f"is no text in UTF-8 ({error.reason} at {error.start})") from error
    try:
        if path.suffix == ".json":
            values = json.loads(text, object_pairs_hook=_json_mapping)
        else:
            values = yaml.load(text, _Loader)
    except (ValueError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ConfigError("config", str(path), f"is not valid {kind}: {_reason(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError("config", str(path), "must hold a mapping of fields")
    return values


def _refuse_doubles(names: list[str]) -> None:
    """Of two fields of one name, one would be passed over without a word. Raises ValueError."""
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{double} is there twice")


def _json_mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_doubles([name for name, _ in pairs])
    return dict(pairs)


class _Loader(yaml.SafeLoader):
    """YAML whose mappings have every field once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As usual, behind a look at the names."""
        _refuse_doubles([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return super().construct_mapping(node, deep)


def _reason(error: Exception) -> str:
    """What is wrong with a text, in one line, and where."""
    mark = getattr(error, "problem_mark", None)
    return f"{error.problem} in line {mark.line + 1}" if mark else str(error).splitlines()[0]


def override(values: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """`values` with `dotted.field=value` assignments applied; values are read as YAML.

    Raises:
        ConfigError: for an assignment without "=", through a field that is no mapping, or of what is no YAML.
    """
    result = copy.deepcopy(values)
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator or not name:
            raise ConfigError("--set", assignment, "must look like field=value, for example optimizer.clip=0.5")
        *path, last = name.split(".")
        place = result
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError("--set", assignment, f"{part} is no group of fields")
        try:
            place[last] = yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            raise ConfigError("--set", assignment, f"its value is not valid YAML: {_reason(error)}") from error
    return result


def plain(config: Any) -> Any:
    """A dataclass as a mapping of plain values that JSON can hold."""
    if is_dataclass(config):
        return {field.name: plain(getattr(config, field.name)) for field in fields(config)}
    return [plain(item) for item in config] if isinstance(config, tuple) else config


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """Dotted names of the fields in which two plain mappings differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        return [found for name in names for found in differences(old.get(name), new.get(name), _join(at, name))]
    return [] if old == new else [f"{at} is {old!r} there and {new!r} here"]
