"""What the emulator refuses a statement with: a number, a SQL state and a text, as Snowflake's errors have them."""

import re

import duckdb
import snowflake.connector.errors
import sqlglot.errors


class StatementError(Exception):
    """A statement that failed; the server tells it to the client, whose connector raises a ProgrammingError."""

    def __init__(self, number: int, state: str, message: str) -> None:
        super().__init__(message)
        self.number = number
        self.state = state
        self.message = message


def syntax_error(message: str) -> StatementError:
    return StatementError(1003, "42000", f"SQL compilation error:\nsyntax error: {message}")


def does_not_exist(kind: str, name: str) -> StatementError:
    return StatementError(2003, "02000", f"SQL compilation error:\n{kind} '{name}' does not exist or not authorized.")


def already_exists(kind: str, name: str) -> StatementError:
    return StatementError(2002, "42710", f"SQL compilation error:\n{kind} '{name}' already exists.")


def unsupported(what: str) -> StatementError:
    """What the emulator does not know, whether or not Snowflake would."""
    return StatementError(2, "0A000", f"Unsupported feature: the emulator does not know {what}")


def no_scripting(what: str) -> StatementError:
    return StatementError(2, "0A000", f"Unsupported feature: the emulator does not run SQL scripting ({what})")


def missing_property(kind: str, name: str) -> StatementError:
    return StatementError(2029, "42601", f"SQL compilation error:\nMissing option(s): [{name}] in CREATE {kind}")


def refusal(error: Exception) -> StatementError:
    """Any exception as a refusal, because a failure of the server itself would make the connector try again for ever."""
    if isinstance(error, StatementError):
        return error
    if isinstance(error, snowflake.connector.errors.Error):
        return StatementError(error.errno or 604, error.sqlstate or "XX000", error.raw_msg or str(error))
    if isinstance(error, sqlglot.errors.SqlglotError):
        return syntax_error(re.sub(r"\x1b\[\d+m", "", str(error)))
    if isinstance(error, duckdb.Error):
        return _of_the_engine(error)
    return StatementError(604, "XX000", f"the emulator failed: {type(error).__name__}: {error}")


# What DuckDB says, as the number and state of Snowflake's error of that kind; the first that fits.
_OF_THE_ENGINE: tuple[tuple[type[duckdb.Error], str, int, str, str], ...] = (
    (duckdb.CatalogException, r"(Function|Macro)\b.* does not exist", 2140, "42601", "Unknown function"),
    (duckdb.CatalogException, "already exists", 2002, "42710", "Object already exists"),
    (duckdb.CatalogException, "", 2003, "42S02", "Object does not exist or not authorized"),
    (
        duckdb.BinderException,
        r"(Catalog|Schema)\b.* does not exist",
        2003,
        "02000",
        "Object does not exist or not authorized",
    ),
    (duckdb.BinderException, "", 904, "42000", "invalid identifier"),
    (duckdb.ParserException, "", 1003, "42000", "syntax error"),
    (duckdb.ConstraintException, "", 100072, "22000", "NULL result in a non-nullable column"),
    (duckdb.ConversionException, "", 100038, "22018", "Value is not recognized"),
    (duckdb.Error, "", 604, "XX000", "the engine beneath the emulator failed"),
)


def _of_the_engine(error: duckdb.Error) -> StatementError:
    said = str(error).split("\nLINE")[0]
    for kind, pattern, number, state, meaning in _OF_THE_ENGINE:
        if isinstance(error, kind) and re.search(pattern, said):
            return StatementError(number, state, f"{meaning}: {said}")
    raise AssertionError(error)  # the last line fits every error
