"""What the pages read: the source of one role, with results kept until the warehouse has something new.

Here belongs Streamlit's caching. What must not be kept, pages ask of the source.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import streamlit as st

from churn_assets.dashboard.source import Source
from churn_assets.serving.reading import Serving

_KEPT = 500  # results
_KEPT_SECONDS = 300.0


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
        """How a customer's score came about within the last day, oldest first."""
        return _history(self.source.serving, self.source.serving.role, self._version, customer_id).to_pandas()

    def _asked(self, sql: str, parameters: Sequence[Any]) -> pa.Table:
        return _rows(self.source.serving, self.source.serving.role, self._version, sql, tuple(parameters))


@st.cache_data(max_entries=_KEPT, ttl=_KEPT_SECONDS, show_spinner=False)
def _rows(_serving: Serving, role: str, version: str, sql: str, parameters: tuple[Any, ...]) -> pa.Table:
    return _serving.query(sql, parameters)


@st.cache_data(max_entries=_KEPT, ttl=_KEPT_SECONDS, show_spinner=False)
def _history(_serving: Serving, role: str, version: str, customer_id: str) -> pa.Table:
    return _serving.score_history(customer_id)
