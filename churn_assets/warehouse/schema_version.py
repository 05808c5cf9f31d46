"""The version of the tables: which one this code is made for, and what is said where a warehouse has another.

Here belong the number and the refusal. The tables of an earlier version are brought to this one by `LakeWarehouse.deploy`, and in
an account by `churn_assets.operations.account`. Both add what `sql/` declares and a table lacks. So for a new table or column
its declaration is enough; a column that may not be NULL needs a DEFAULT, which earlier rows get.
"""

from churn_assets.errors import ChurnError

# Raise it with each change of a table, and keep the tables of this version for the tests: see their folder `versions`.
SCHEMA_VERSION = 1
UNVERSIONED = 0  # tables that were deployed before this number was kept

READ_VERSION = "SELECT MAX(version) AS version FROM {table}"
NOTE_VERSION = "INSERT INTO schema_version (version, deployed_at) VALUES (?, ?)"


class SchemaVersionError(ChurnError):
    """The tables are of another version than the code; the message says what to run."""


def refuse_newer(found: int, place: str) -> None:
    """`SchemaVersionError` if the tables in `place` have a version that this code does not know."""
    if found > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"a newer version of churn has deployed {place}: its tables are version {found}, and this one knows those up to"
            f" {SCHEMA_VERSION}; install that version of churn"
        )


def refuse_another(found: int, place: str) -> None:
    """`SchemaVersionError` if the tables in `place` are not of the version that this code is made for."""
    refuse_newer(found, place)
    if found < SCHEMA_VERSION:
        raise SchemaVersionError(
            f"an older version of churn has deployed {place}: its tables are version {found}, and this one needs"
            f" {SCHEMA_VERSION}; stop what runs there, then run `churn deploy`, which keeps all data"
        )
