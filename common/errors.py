"""The exception that a program reports without a traceback."""


class ReportedError(Exception):
    """End the program: print each of ``lines`` alone, without a traceback.

    Each line names the thing that is wrong and the way out. Characters that cannot be printed, such
    as a line break in a file's name, are escaped.

    ``retry`` says whether the same command may succeed when it is started again. The exit status
    follows from it: 2 tells the launcher not to restart the ranks, 1 that a restart may help.
    """

    status = 2
    """Exit status of an error that a restart cannot mend."""

    def __init__(self, *lines: str, retry: bool = False) -> None:
        super().__init__(*lines)
        self.retry = retry
        if retry:
            self.status = 1

    def __str__(self) -> str:
        return "\n".join(map(printable, self.args))


def printable(text: str) -> str:
    """Escape the characters of ``text`` that cannot be printed, so that it stays on one line."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
