from typing import Any

from pyarrow import Table as Table

class RecordBatchReader:
    def __iter__(self) -> Any: ...
    def __getattr__(self, name: str) -> Any: ...
