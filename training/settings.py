"""Reads a run's configuration from YAML and overrides, and explains what is wrong with it."""

import copy
import difflib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

from model.errors import InputError
from training.config import Config, Section

# Settings that a resumed run may change: they do not touch what is computed.
CHANGEABLE = {
    *("name", "runs", "placement", "compile", "channels_last", "checkpoint_every"),
    *("keep_checkpoints", "keep_best", "write_errors", "compare_ranks_every", "timeout"),
    *("data.folder", "data.workers", "optimizer.accumulation"),
    *("tracking.mode", "tracking.project", "tracking.group"),
}


def load_config(path: Path, overrides: list[str]) -> Config:
    """The configuration of a YAML file with ``key.sub=value`` overrides.

    Raises InputError that lists every fault with the file, the key and the nearest valid one.
    """
    return resolve_config(_read(path), overrides, path)


def config_over(
    settings: dict[str, Any], source: Path, path: Path | None, overrides: list[str]
) -> Config:
    """``settings``, which came from ``source``, changed by a YAML file if any, then by overrides.

    Raises InputError as ``load_config`` does.
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
        faults = (_explain(path, given, fault) for fault in error.errors())
        raise InputError("\n".join(faults)) from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def check_same_run(config: Config, saved: dict[str, Any]) -> None:
    """Raise InputError when ``config`` would not continue the run saved as JSON values."""
    before, now = dict(_flat(saved)), dict(_flat(config.model_dump(mode="json")))
    for key in sorted((before | now).keys() - CHANGEABLE):
        if before.get(key) != now.get(key):
            raise InputError(
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
        lines.append(f"      {field.description}")
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
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read the config {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or the date 2026-99-99
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not valid YAML: {reason}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a mapping of keys to values")
    return values


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(key), dict):
            _merge(values[key], change)
        else:
            values[key] = change


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"cannot use the argument {override!r}: overrides look like key.sub=value")
    *parents, last = key.split(".")
    for parent in parents:
        section = values.setdefault(parent, {})
        if not isinstance(section, dict):
            raise InputError(f"cannot use the override {override!r}: {parent} is not a section")
        values = section
    try:
        values[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise InputError(f"the value in {override!r} is not valid YAML") from None


def _explain(path: Path, overridden: set[str], fault: Any) -> str:
    # Of a setting that may be a number or a list, pydantic names the form it tried as well.
    key = ".".join(str(part) for part in fault["loc"] if part not in ("float", "list[float]"))
    where = "command line" if key in overridden else path
    if fault["type"] == "extra_forbidden":
        names = _valid_keys(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(names)}"
        return f"{where}: {key}: unknown key, {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {key}: {message} (got {fault['input']!r})" if key else f"{where}: {message}"


def _valid_keys(sections: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for name in sections:
        annotation = model.model_fields[str(name)].annotation
        assert isinstance(annotation, type)
        model = annotation
    return list(model.model_fields)
