"""The one error a user's input may cause: it names what is wrong and how to fix it."""


class LocusError(ValueError):
    """Wrong input, seen before or during a run; the message says which file or key, and what to do.

    Entry points print it as one line, without a traceback, and exit with status 2.
    """
