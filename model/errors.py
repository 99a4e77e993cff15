"""The exceptions that a program reports without a traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that names the thing and the way out; programs print it alone
    and exit with ``status``.
    """

    status = 2


class RunError(RuntimeError):
    """Something broke a run that was rightly asked for; begun again, it may well go on.

    Programs print the message alone and exit with ``status``.
    """

    status = 1
