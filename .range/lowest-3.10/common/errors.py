"""The exception that a program reports without a traceback."""


class ReportedError(Exception):
    """An error that ends a program with its message alone: no traceback, exit status 2 or 1.

    Each argument is a line that names what is wrong and the way out. Characters that cannot be
    printed, such as a line break in a file's name, are escaped.

    The launcher does not restart ranks that exit with status 2: the same command would fail again.
    ``retry=True`` makes the status 1, for failures that a restart may cure.
    """

    status = 2

    def __init__(self, *lines: str, retry: bool = False) -> None:
        super().__init__(*lines)
        if retry:
            self.status = 1

    def __str__(self) -> str:
        return "\n".join(map(printable, self.args))


def printable(text: str) -> str:
    """Escape the characters of ``text`` that cannot be printed, so that it stays on one line."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
