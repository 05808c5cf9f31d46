"""The one base of errors that are meant for the user, and those that more than one layer has to know."""


class ChurnError(Exception):
    """Something that the user can mend; the message is one line that says what is wrong and what to do next."""


class ModelFileError(ChurnError):
    """The warehouse has no such file of a model, or cannot read it; the message says where it was looked for."""
