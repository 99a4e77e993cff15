"""Where what can be had again is kept."""

import os
from pathlib import Path

from common.errors import ReportedError


def cache_folder() -> Path:
    """The user's folder for this program's downloads and compiled kernels; it may not exist yet.

    Raises ReportedError where the user has none, as in some containers.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base.startswith("~"):
        raise ReportedError(
            "there is no home folder to keep files in: set XDG_CACHE_HOME to a folder"
        )
    return Path(base) / "alexnet-trainer"
