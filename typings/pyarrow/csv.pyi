from typing import Any

class InvalidRow:
    number: int

class ReadOptions:
    def __init__(self, **options: Any) -> None: ...

class ParseOptions:
    def __init__(self, **options: Any) -> None: ...

class ConvertOptions:
    def __init__(self, **options: Any) -> None: ...

def read_csv(input_file: Any, read: ReadOptions, parse: ParseOptions, convert: ConvertOptions) -> Any: ...
