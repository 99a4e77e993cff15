"""What a file of ours says of its net, as text beside the tensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import ReportedError
from weights.net import Weights


def describe(weights: Weights) -> dict[str, str]:
    """``variant``, ``towers``, ``classes`` and ``channels``, and what else is known as JSON."""
    known = {
        "class_names": weights.class_names,
        "preprocessing": weights.preprocessing,
        "changes": dict(weights.changes) or None,
    }
    return {
        "variant": weights.known_variant,
        "towers": str(weights.towers),
        "classes": str(weights.classes),
        "channels": str(weights.channels),
        **{key: json.dumps(value) for key, value in known.items() if value is not None},
    }


def understand(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The arguments ``variant``, ``class_names``, ``preprocessing`` and ``changes`` of
    ``make_weights``.

    The numbers follow from the tensors. Raises ReportedError when the text was not ours.
    """
    try:
        known = {
            key: json.loads(metadata[key])
            for key in ("class_names", "preprocessing", "changes")
            if key in metadata
        }
        names = known.get("class_names", [])
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError("class_names is no list of names")
        if not isinstance(metadata.get("variant", ""), str):
            raise ValueError("variant is no name")
        for key in ("preprocessing", "changes"):
            if not isinstance(known.get(key, {}), dict):
                raise ValueError(f"{key} is no mapping")
    except (TypeError, ValueError, RecursionError) as error:
        raise ReportedError(
            f"the description in {path} is not valid ({error}): write the file with convert.py"
        ) from None
    return {"variant": metadata.get("variant"), **known}
