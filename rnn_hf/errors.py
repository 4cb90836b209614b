"""What goes wrong for a reason that a user can remove: a command shows these as one line, anything else as a bug."""


class InputError(ValueError):
    """What a user gave is wrong; the message names the argument in backquotes and says what would be right."""


class MissingPackageError(ImportError):
    """An optional dependency is not installed; the message says what to install."""
