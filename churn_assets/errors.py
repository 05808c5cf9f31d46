"""The base class of errors for the user, and the errors that more than one layer needs."""


class ChurnError(Exception):
    """An error that the user can fix; the message is one line that says what is wrong and what to do next."""


class ModelFileError(ChurnError):
    """The warehouse does not have a model's file, or cannot read it; the message gives the place."""
