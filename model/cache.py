"""Where what can be had again is kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's folder for this program's downloads and compiled kernels; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "alexnet-trainer"
