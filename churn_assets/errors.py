"""The one base of errors that are meant for the user."""


class ChurnError(Exception):
    """Something that the user can mend; the message is one line that says what is wrong and what to do next."""
