"""The queries of the pages, for one role, with results cached until the warehouse changes.

Here belongs Streamlit's caching. Pages call the source directly for results that must not be cached.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import streamlit as st

from churn_assets.dashboard.source import Source
from churn_assets.serving.reading import Serving

_KEPT = 500  # results in the cache
_KEPT_SECONDS = 300.0
_DAMAGE_SECONDS = 15.0  # a look at thousands of files takes a tenth of a second, which not each click should pay


class Shown:
    """The rows of one rerun of a page."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._version = source.serving.version()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> pd.DataFrame:
        """The result of a SELECT over serving views."""
        return self._asked(sql, parameters).to_pandas()

    def records(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The same as a dictionary for each row."""
        return self._asked(sql, parameters).to_pylist()

    def score_history(self, customer_id: str) -> pd.DataFrame:
        """A customer's scores of the last day, oldest first."""
        return _history(self.source.serving, self.source.serving.role, self._version, customer_id).to_pandas()

    def _asked(self, sql: str, parameters: Sequence[Any]) -> pa.Table:
        return _rows(self.source.serving, self.source.serving.role, self._version, sql, tuple(parameters))


@st.cache_data(ttl=_DAMAGE_SECONDS, show_spinner=False)
def damage(_source: Source) -> list[str]:
    """The damaged files that are known, in words, for every role."""
    return _source.damage()


@st.cache_data(max_entries=_KEPT, ttl=_KEPT_SECONDS, show_spinner=False)
def _rows(_serving: Serving, role: str, version: str, sql: str, parameters: tuple[Any, ...]) -> pa.Table:
    return _serving.query(sql, parameters)


@st.cache_data(max_entries=_KEPT, ttl=_KEPT_SECONDS, show_spinner=False)
def _history(_serving: Serving, role: str, version: str, customer_id: str) -> pa.Table:
    return _serving.score_history(customer_id)
