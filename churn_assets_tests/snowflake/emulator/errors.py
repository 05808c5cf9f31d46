"""What the emulator refuses a statement with: a number, a SQL state and a text, as Snowflake's errors have them."""

import re

import duckdb
import snowflake.connector.errors
import sqlglot.errors


class Refused(Exception):
    """A statement that failed; the server tells it to the client, whose connector raises a ProgrammingError."""

    def __init__(self, number: int, state: str, message: str) -> None:
        super().__init__(message)
        self.number = number
        self.state = state
        self.message = message


def syntax_error(message: str) -> Refused:
    return Refused(1003, "42000", f"SQL compilation error:\nsyntax error: {message}")


def does_not_exist(kind: str, name: str) -> Refused:
    return Refused(2003, "02000", f"SQL compilation error:\n{kind} '{name}' does not exist or not authorized.")


def already_exists(kind: str, name: str) -> Refused:
    return Refused(2002, "42710", f"SQL compilation error:\n{kind} '{name}' already exists.")


def unsupported(what: str) -> Refused:
    """What the emulator does not know, whether or not Snowflake would."""
    return Refused(2, "0A000", f"Unsupported feature: the emulator does not know {what}")


def no_scripting(what: str) -> Refused:
    return Refused(2, "0A000", f"Unsupported feature: the emulator does not run SQL scripting or Python ({what})")


def missing_property(kind: str, name: str) -> Refused:
    return Refused(2029, "42601", f"SQL compilation error:\nMissing option(s): [{name}] in CREATE {kind}")


def refusal(error: Exception) -> Refused:
    """Any exception as a refusal, because a failure of the server itself would make the connector try again for ever."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, snowflake.connector.errors.Error):
        return Refused(error.errno or 604, error.sqlstate or "XX000", error.raw_msg or str(error))
    if isinstance(error, sqlglot.errors.SqlglotError):
        return syntax_error(re.sub(r"\x1b\[\d+m", "", str(error)))
    if isinstance(error, duckdb.Error):
        return _of_the_engine(error)
    return Refused(604, "XX000", f"the emulator failed: {type(error).__name__}: {error}")


def _of_the_engine(error: duckdb.Error) -> Refused:
    message = str(error).split("\nLINE")[0]
    if isinstance(error, duckdb.CatalogException):
        if re.search(r"(Function|Macro)\b.* does not exist", message):
            return Refused(2140, "42601", f"SQL compilation error:\nUnknown function: {message}")
        if "already exists" in message:
            return Refused(2002, "42710", f"SQL compilation error:\n{message}")
        return Refused(2003, "42S02", f"SQL compilation error:\nObject does not exist or not authorized: {message}")
    if isinstance(error, duckdb.BinderException):
        if "does not exist" in message and ("Catalog" in message or "Schema" in message):
            return Refused(2003, "02000", f"SQL compilation error:\nObject does not exist or not authorized: {message}")
        return Refused(904, "42000", f"SQL compilation error:\ninvalid identifier: {message}")
    if isinstance(error, duckdb.ParserException):
        return syntax_error(message)
    if isinstance(error, duckdb.ConstraintException):
        return Refused(100072, "22000", f"NULL result in a non-nullable column: {message}")
    if isinstance(error, duckdb.ConversionException):
        return Refused(100038, "22018", f"Value is not recognized: {message}")
    return Refused(604, "XX000", f"the engine beneath the emulator failed: {message}")
