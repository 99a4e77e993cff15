"""Reads the file that an offline W&B run leaves: records in blocks, as LevelDB's log has them."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

_HEADER = struct.Struct("<4sHB")
_CHUNK = struct.Struct("<IHB")
_BLOCK = 32 * 1024
_FULL, _LAST = 1, 4


class WandbRun(NamedTuple):
    """A run as its file tells it."""

    record: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    metrics: list[Any]
    exit_codes: list[int]


def read_records(path: Path) -> Iterator[Any]:
    data = path.read_bytes()
    assert _HEADER.unpack_from(data)[:2] == (b":W&B", 0xBEE1)
    position, payload = _HEADER.size, b""
    while position + _CHUNK.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK.size:
            position += left
            continue
        _, length, kind = _CHUNK.unpack_from(data, position)
        position += _CHUNK.size
        payload += data[position : position + length]
        position += length
        if kind in (_FULL, _LAST):
            yield Record.FromString(payload)
            payload = b""


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_run(folder: Path) -> WandbRun:
    """The only run below ``folder``."""
    [path] = folder.rglob("*.wandb")
    records = list(read_records(path))
    of_kind = {
        kind: [getattr(record, kind) for record in records if record.HasField(kind)]
        for kind in ("run", "history", "summary", "metric", "exit")
    }
    config, summary = (
        {key: value for part in parts for key, value in _values(part).items()}
        for parts in (
            [run.config.update for run in of_kind["run"]],
            [update.update for update in of_kind["summary"]],
        )
    )
    history = [_values(line.item) for line in of_kind["history"]]
    exit_codes = [end.exit_code for end in of_kind["exit"]]
    return WandbRun(of_kind["run"][0], config, history, summary, of_kind["metric"], exit_codes)
