"""The folder for files that can be downloaded or compiled again."""

import os
from pathlib import Path

from common.errors import ReportedError


def cache_folder() -> Path:
    """The user's folder for this program's downloads and compiled kernels; it may not exist yet.

    Raises ReportedError when the user has no home folder, as in some containers.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base.startswith("~"):
        raise ReportedError(
            "there is no home folder for downloads and compiled kernels: set XDG_CACHE_HOME"
        )
    return Path(base) / "alexnet-trainer"
