"""The one exception that a program reports without a traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    Each argument is a sentence that names the thing and the way out. Programs print them alone, a
    line for each, and exit with ``status``. What cannot be printed, such as a line break in the
    name of a file, is escaped.
    """

    status = 2

    def __str__(self) -> str:
        return "\n".join(map(printable, self.args))


def printable(text: str) -> str:
    """``text`` on one line that no terminal obeys: what cannot be printed is escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
