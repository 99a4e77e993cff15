"""Reads a run's configuration from YAML and overrides, and explains what is wrong with it."""

import copy
import difflib
import re
import reprlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError
from typing_extensions import override as overriding

from common.errors import ReportedError
from common.files import open_plain
from training.config import Config
from training.fields import Mark, OneOf, Section, list_fields, marked_keys

MOST_BYTES = 2**16
"""Size of a configuration file; nobody writes a longer one."""
MOST_FAULTS = 8
"""Faults that are reported; a file that is not a configuration may have thousands."""
SHOWN = 80
"""Characters of a wrong value that are quoted."""
TEXT = "tag:yaml.org,2002:str"
"""YAML's type of text."""

RENAMED = {
    "initial_values": "init",
    "data.deviation": "data.std",
    "optimizer.accumulation": "optimizer.gradient_accumulation",
}
"""Old dotted keys and their new names. A user is told; ``upgrade`` renames them in saved files."""


WORDS = {
    "tuple_type": "Input should be a list, such as [a, b]",
    "model_type": "Input should be a section; set one of its keys, as in optimizer.name=sgd",
    "path_type": "Input should be a path",
    "string_type": "Input should be text; in YAML, put it in quotes",
    "string_pattern_mismatch": "Input should hold letters, digits, '.', '_' and '-' only, and "
    "begin with a letter or a digit",
}
"""Plainer messages for some types of pydantic's errors."""


def load_config(path: Path, overrides: list[str]) -> Config:
    """The configuration in a YAML file, changed by ``key.sub=value`` overrides.

    Raises ReportedError that lists every fault with the file, the key and the nearest valid key.
    """
    return resolve_config(_read(path), overrides, path)


def config_over(
    settings: dict[str, Any], source: Path, path: Path | None, overrides: list[str]
) -> Config:
    """``settings`` from ``source``, changed by a YAML file (if given), then by overrides.

    Raises ReportedError as ``load_config`` does.
    """
    values = copy.deepcopy(settings)
    if path is not None:
        _merge(values, _read(path))
    return resolve_config(values, overrides, path or source)


def resolve_config(values: dict[str, Any], overrides: list[str], path: Path) -> Config:
    """The configuration of ``values``, which came from ``path``, changed by overrides.

    Raises ReportedError as ``load_config`` does.
    """
    for override in overrides:
        _override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        given = {override.partition("=")[0] for override in overrides}
        faults = error.errors()
        lines = [_explain(path, given, fault) for fault in faults[:MOST_FAULTS]]
        if more := len(faults) - len(lines):
            lines.append(f"and {more} more")
        raise ReportedError(*lines) from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML in ASCII, which every terminal and locale can write."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``values``, settings that an older version saved, with today's keys."""
    values = copy.deepcopy(values)
    for old, new in RENAMED.items():
        section, last = _section_of(values, old)
        if last in section:
            value = section.pop(last)
            section, last = _section_of(values, new)
            section.setdefault(last, value)
    return values


def _section_of(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds a dotted key (empty if there is none), and the key's last part."""
    *parents, last = key.split(".")
    for parent in parents:
        section = values.get(parent)
        values = section if isinstance(section, dict) else {}
    return values, last


def check_same_run(config: Config, saved: dict[str, Any]) -> None:
    """Raise ReportedError if ``config`` would not continue the run saved as JSON values.

    A setting that is newer than the saved run had its default there: the default of a new setting
    must be the behaviour from before it.
    """
    before, now = {**_plain_values(Config()), **dict(flatten(saved))}, _plain_values(config)
    for key in sorted((before | now).keys() - marked_keys(Config, Mark.CHANGEABLE)):
        if before.get(key) != now.get(key):
            raise ReportedError(
                f"cannot resume with another {key}: it was {before.get(key)} and is now "
                f"{now.get(key)}; set it back, or start a new run without --resume"
            )


def settings_help() -> str:
    """Every setting with its default, its choices and its help, for ``--help``."""
    lines, defaults = [], _plain_values(Config())
    for key, field in list_fields(Config):
        choices = _choices(field.annotation, *field.metadata)
        listed = f"  ({', '.join(choices)})" if choices else ""
        lines.append(f"  {key} = {_in_yaml(defaults[key])}{listed}")
        lines.append(textwrap.indent(textwrap.fill(field.description or "", 92), 6 * " "))
    return "\n".join(lines)


def flatten(
    values: dict[str, Any], prefix: str = "", separator: str = "."
) -> Iterator[tuple[str, Any]]:
    """The joined keys and the values of nested dicts."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}{separator}", separator)
        else:
            yield prefix + key, value


def _plain_values(config: Config) -> dict[str, Any]:
    """The values that JSON would hold, by dotted key."""
    return dict(flatten(config.model_dump(mode="json")))


def _choices(*annotations: Any) -> list[str]:
    """The values that a setting's annotations list, in order."""
    found: list[str] = []
    for annotation in annotations:
        if isinstance(annotation, OneOf):
            found += annotation.table
        elif get_origin(annotation) is Literal:
            found += map(str, get_args(annotation))
        else:
            found += _choices(*get_args(annotation))
    return found


def _in_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _read(path: Path) -> dict[str, Any]:
    try:
        with open_plain(path, MOST_BYTES) as file:
            values = _parse(file.read())
    except OSError as error:
        raise ReportedError(f"cannot read the config {path}: {error.strerror}") from None
    except ValueError as error:
        raise ReportedError(f"{path} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ReportedError(f"{path} must hold a mapping of keys to values")
    return values


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error; PyYAML would take the last one."""

    @overriding
    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check the keys. Does not merge ``<<`` into them: merges of merges grow without end."""
        known = set()
        for key, _ in node.value:
            if str(key.value) in known:
                problem = f"the key {key.value} is given twice"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            known.add(str(key.value))


def _types(annotation: Any) -> Iterator[Any]:
    """An annotation and what it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _types(part)


TEXTS = {
    key
    for key, field in list_fields(Config)
    if any(each in (str, Path) for each in _types(field.annotation))
}
"""The settings that are text: in name=7 and name=2026-11-26 are no number and no date."""
SECTIONS = {"", *(key.rpartition(".")[0] for key in TEXTS)}


def _keep_texts(node: yaml.Node, key: str) -> yaml.Node:
    """The node of a setting or a section, in which the scalars of ``TEXTS`` are text."""
    if isinstance(node, yaml.MappingNode) and key in SECTIONS:
        inside = f"{key}." if key else ""
        pairs = [(name, _keep_texts(value, f"{inside}{name.value}")) for name, value in node.value]
        return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark)
    is_text = isinstance(node, yaml.ScalarNode) and key in TEXTS and not node.tag.endswith(":null")
    return yaml.ScalarNode(TEXT, node.value, node.start_mark, node.end_mark) if is_text else node


def _parse(text: str | bytes, key: str = "") -> Any:
    """The value of the YAML text of a setting or, without ``key``, of all settings.

    Raises ValueError with the reason if it is not valid.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(_keep_texts(node, key))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: the date 2026-99-99
        reason = re.sub(r'in "<(byte|unicode) string>", ', "at ", str(error))
        raise ValueError(" ".join(reason.split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(key), dict):
            _merge(values[key], change)
        else:
            values[key] = change


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ReportedError(
            f"cannot use the argument {_quote(override)}: overrides look like key=value or "
            "key.sub=value, without spaces"
        )
    *parents, last = key.split(".")
    for parent in parents:
        section = values.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ReportedError(
                f"cannot use the override {_quote(override)}: {parent} is not a section"
            )
        values = section
    try:
        values[last] = _parse(text, key)
    except ValueError as error:
        raise ReportedError(f"the value in {_quote(override)} is not valid YAML: {error}") from None


def _explain(path: Path, overridden: set[str], fault: Any) -> str:
    """One line about one of pydantic's errors."""
    # For a setting that may be a number or a list, pydantic also names the form it tried.
    key = ".".join(str(part) for part in fault["loc"] if part not in ("float", "list[float]"))
    where = _place(key, path, overridden)
    if fault["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key, {_hint(fault['loc'])}"
    message = WORDS.get(fault["type"], fault["msg"]).removeprefix("Value error, ")
    return (
        f"{where}: {key}: {message} (got {_quote(fault['input'])})"
        if key
        else f"{where}: {message}"
    )


def _place(key: str, path: Path, overridden: set[str]) -> str:
    """The origin of a key's value, or of a section's values (the empty key: all of them)."""
    if any(key == given or key.startswith(f"{given}.") for given in overridden):
        return "command line"
    inside = any(not key or given.startswith(f"{key}.") for given in overridden)
    return f"{path} and the command line" if inside else str(path)


def _hint(location: tuple[Any, ...]) -> str:
    """The setting that an unknown key probably means: its new name, or one that is spelt alike."""
    if new := RENAMED.get(".".join(map(str, location))):
        return f"it is now called '{new}'"
    name, names = str(location[-1]), _names_in(location[:-1])
    elsewhere = [key for key, _ in list_fields(Config) if key.rpartition(".")[2] == name]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    if meant := elsewhere or near:
        return f"did you mean {' or '.join(map(repr, meant))}?"
    return f"the keys are {', '.join(names)}"


def _names_in(location: tuple[Any, ...]) -> list[str]:
    """The names of the settings in the section at ``location``."""
    section: type[Section] = Config
    for name in location:
        annotation = section.model_fields[str(name)].annotation
        assert isinstance(annotation, type)
        section = annotation
    return list(section.model_fields)


class _Repr(reprlib.Repr):
    """A ``repr`` of few levels and items: a short YAML text can stand for a value without end."""

    @overriding
    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**SHOWN else f"a number of {x.bit_length()} bits"


_REPR = _Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict, _REPR.maxstring = 2, 4, 4, SHOWN


def _quote(value: Any) -> str:
    text = _REPR.repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
