"""The exceptions that a program reports without a traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    Each argument is a sentence that names the thing and the way out. Programs print them alone, a
    line for each, and exit with ``status``. What cannot be printed, such as a line break in the
    name of a file, is escaped.
    """

    status = 2

    def __str__(self) -> str:
        return "\n".join(map(printable, self.args))


class RunError(RuntimeError):
    """Something broke a run that was rightly asked for; begun again, it may well go on.

    Programs print the message alone and exit with ``status``.
    """

    status = 1


def printable(text: str) -> str:
    """``text`` on one line that no terminal obeys: what cannot be printed is escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
