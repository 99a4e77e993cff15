"""What a check of the machine found: printed as it comes, and kept to attach to a bug report."""

import getpass
import json
import logging
import re
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from common.files import replacing, writing

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
VERDICTS = {True: "holds", False: "FAILS", None: "not checked"}
COUNTED = {True: "hold", False: "fail", None: "not checked"}
ABSOLUTE = re.compile(r"(?<![\w.~/])/(?:[\w.+@%-]+/)+[\w.+@%-]*")
"""An absolute path of at least two parts."""
ADDRESS = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])(?::\d+)?")
"""An IPv4 address, with or without a port."""


class Outcome(NamedTuple):
    """One claim; ``holds`` is None if it was not checked, ``said`` is a measure or the reason."""

    name: str
    holds: bool | None
    said: str


class Report:
    """Everything that was found, in the order of the checks."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.machine: dict[str, str] = {}
        self.outcomes: list[tuple[str, Outcome]] = []
        self._section = ""

    def say(self, line: str) -> None:
        """Print a line, and keep it."""
        log.info("%s", line)
        self.lines.append(line)

    def keep(self, text: str) -> None:
        """Keep what is printed elsewhere, such as an error."""
        self.lines += text.splitlines()

    def begin(self, section: str) -> None:
        """Begin a section of the report."""
        self._section = section
        self.say(f"\n{section}")

    def describe(self, facts: dict[str, str]) -> None:
        """Take facts about the machine; the text of one may have several lines."""
        self.machine |= facts
        for name, text in facts.items():
            first, *more = text.splitlines() or [""]
            for label, line in ((name, first), *(("", line) for line in more)):
                self.say(f"  {label:<16}{line}".rstrip())

    def take(self, outcomes: Iterable[Outcome]) -> None:
        """Take the outcomes of the section's checks, each printed as it comes."""
        for outcome in outcomes:
            self.outcomes.append((self._section, outcome))
            name, holds, said = outcome
            self.say(f"  {VERDICTS[holds]:<13}{name:<34}{said}".rstrip())

    @property
    def failed(self) -> list[str]:
        """The names of the claims that do not hold."""
        return [outcome.name for _, outcome in self.outcomes if outcome.holds is False]

    def summary(self) -> str:
        """How many claims hold, in words."""
        found = [outcome.holds for _, outcome in self.outcomes]
        return ", ".join(f"{found.count(holds)} {word}" for holds, word in COUNTED.items())

    def as_json(self) -> dict[str, Any]:
        """The machine, the outcomes and the names of those that failed."""
        checks = [{"section": where, **outcome._asdict()} for where, outcome in self.outcomes]
        return {"machine": self.machine, "checks": checks, "failed": self.failed}

    def write(self, folder: Path) -> None:
        """Write ``report.txt`` and ``report.json``, which name no host, no user and no path.

        Raises ReportedError when the disk refuses.
        """
        texts = {
            "report.txt": "\n".join(self.lines).strip(),
            "report.json": json.dumps(self.as_json(), indent=1, ensure_ascii=False),
        }
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            with replacing(folder / name) as aside:
                aside.write_text(anonymous(text) + "\n", encoding="utf-8")


def anonymous(text: str) -> str:
    """The text without absolute paths, addresses, and names of this host and its user."""
    for place in (ROOT, Path(sys.prefix)):
        text = text.replace(f"{place}/", "")
    text = ABSOLUTE.sub("PATH", text.replace(str(Path.home()), "PATH"))
    text = ADDRESS.sub("ADDRESS", text)
    for word, name in _names().items():
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", word, text)
    return text


def _names() -> dict[str, str]:
    """What identifies this machine and its user, by the word that stands for it."""
    host = socket.gethostname()
    names = {"HOST": host, "MACHINE": host.partition(".")[0]}
    try:
        names["USER"] = getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in some containers
        names["USER"] = ""
    return {word: name for word, name in names.items() if name}
