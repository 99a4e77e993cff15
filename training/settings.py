"""Reads a run's configuration from YAML and overrides, and explains what is wrong with it."""

import copy
import difflib
import textwrap
import typing
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError
from typing_extensions import override as overriding

from common.errors import ReportedError
from common.files import open_plain
from training.config import Config, Section

MOST_BYTES = 2**16
"""Of a configuration's file; so many are more than anybody writes."""
LARGEST_INT = 2**63
SHOWN = 80
"""Letters of a wrong value that are quoted."""
MOST_FAULTS = 8
"""That are told; of a file that is no configuration there may be thousands."""

# Settings that a resumed run may change: they do not touch what is computed.
CHANGEABLE = {
    *(
        "name",
        "runs",
        "placement",
        "compile",
        "channels_last",
        "overlap_communication",
        "checkpoint_every",
    ),
    *("keep_checkpoints", "keep_best", "write_errors", "compare_ranks_every", "timeout"),
    *("data.folder", "data.workers", "optimizer.gradient_accumulation"),
    *("tracking.mode", "tracking.project", "tracking.group"),
}


def load_config(path: Path, overrides: list[str]) -> Config:
    """The configuration of a YAML file with ``key.sub=value`` overrides.

    Raises ReportedError that lists every fault with the file, the key and the nearest valid one.
    """
    return resolve_config(_read(path), overrides, path)


def config_over(
    settings: dict[str, Any], source: Path, path: Path | None, overrides: list[str]
) -> Config:
    """``settings``, which came from ``source``, changed by a YAML file if any, then by overrides.

    Raises ReportedError as ``load_config`` does.
    """
    values = copy.deepcopy(settings)
    if path is not None:
        _merge(values, _read(path))
    return resolve_config(values, overrides, path or source)


def resolve_config(values: dict[str, Any], overrides: list[str], path: Path) -> Config:
    """The configuration of ``values``, which came from ``path``, with overrides."""
    for override in overrides:
        _override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        given = {override.partition("=")[0] for override in overrides}
        found = error.errors()
        told = [_explain(path, given, fault) for fault in found[:MOST_FAULTS]]
        if more := len(found) - len(told):
            told.append(f"and {more} more")
        raise ReportedError(*told) from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def check_same_run(config: Config, saved: dict[str, Any]) -> None:
    """Raise ReportedError when ``config`` would not continue the run saved as JSON values."""
    before, now = dict(_flat(saved)), dict(_flat(config.model_dump(mode="json")))
    for key in sorted((before | now).keys() - CHANGEABLE):
        if before.get(key) != now.get(key):
            raise ReportedError(
                f"cannot resume with another {key}: it was {before.get(key)} and is now "
                f"{now.get(key)}; set it back, or start a new run without --resume"
            )


def settings_help() -> str:
    """Every setting with its default and what it does, for ``--help``."""
    lines = []
    for key, field in _fields(Config):
        choices = _choices(field.annotation)
        listed = f"  ({', '.join(map(str, choices))})" if choices else ""
        lines.append(f"  {key} = {_plain(field.get_default())}{listed}")
        lines.append(textwrap.indent(textwrap.fill(field.description, 92), 6 * " "))
    return "\n".join(lines)


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _choices(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is Literal:
        return list(typing.get_args(annotation))
    return [choice for part in typing.get_args(annotation) for choice in _choices(part)]


def _plain(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


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
    """YAML in which nothing is said twice, or in few letters much.

    A key that is repeated is most likely a mistake, of which PyYAML takes the last. Aliases make of
    a short text one without end; no configuration needs them.
    """

    @overriding
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(None, None, "write out what the alias stands for", mark)
        return super().compose_node(parent, index)

    @overriding
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        known = set()
        for key, _ in node.value:
            if str(key.value) in known:
                problem = f"the key {key.value} is there twice"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            known.add(str(key.value))
        return super().construct_mapping(node, deep)

    @overriding
    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if abs(value) >= LARGEST_INT:
            raise yaml.MarkedYAMLError(None, None, "a number is too large", node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _parse(text: str | bytes) -> Any:
    """What YAML means; raises ValueError with the reason if it is none."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: the date 2026-99-99
        raise ValueError(" ".join(str(error).split())) from None
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
            f"cannot use the argument {_quoted(override)}: overrides look like key=value or "
            "key.sub=value, without spaces"
        )
    *parents, last = key.split(".")
    for parent in parents:
        section = values.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ReportedError(
                f"cannot use the override {_quoted(override)}: {parent} is not a section"
            )
        values = section
    try:
        values[last] = _parse(text)
    except ValueError as error:
        raise ReportedError(
            f"the value in {_quoted(override)} is not valid YAML: {error}"
        ) from None


def _explain(path: Path, overridden: set[str], fault: Any) -> str:
    # Of a setting that may be a number or a list, pydantic names the form it tried as well.
    key = ".".join(str(part) for part in fault["loc"] if part not in ("float", "list[float]"))
    where = _source_of(key, path, overridden)
    if fault["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key, {_hint(fault['loc'])}"
    message = fault["msg"].removeprefix("Value error, ")
    got = _quoted(fault["input"])
    return f"{where}: {key}: {message} (got {got})" if key else f"{where}: {message}"


def _source_of(key: str, path: Path, overridden: set[str]) -> str:
    """Where a value is from, or those of a section, the empty key being all, that do not agree."""
    if any(key == given or key.startswith(f"{given}.") for given in overridden):
        return "command line"
    inside = any(not key or given.startswith(f"{key}.") for given in overridden)
    return f"{path} and the command line" if inside else str(path)


def _hint(place: tuple[Any, ...]) -> str:
    """What an unknown key may have been meant to be: of its section, or of another."""
    name, names = str(place[-1]), _valid_keys(place[:-1])
    elsewhere = [key for key, _ in _fields(Config) if key.rpartition(".")[2] == name]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    if meant := elsewhere or near:
        return f"did you mean {' or '.join(map(repr, meant))}?"
    return f"the keys are {', '.join(names)}"


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _valid_keys(sections: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for name in sections:
        annotation = model.model_fields[str(name)].annotation
        assert isinstance(annotation, type)
        model = annotation
    return list(model.model_fields)
