"""Text with separators, after RFC 4180, as rows with their lines: where a record begins and ends, and what the header says.

Each record of the file becomes a row or a faulty row, and none is passed over. The records are found here, by the quotes and
line ends of the whole text; Arrow's parser then cuts each into its fields. Bytes come from `source`, in UTF-8.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from churn_assets.table_files.source import LINE_BYTES, FileError, Source

SEPARATORS = {b",": "commas", b";": "semicolons", b"\t": "tabs", b"|": "bars"}
HEADER_LINES = 1000  # the header is looked for in so many lines from the top
_MARK = "\ufeff"  # the byte order mark of a second file that was appended
_LF, _CR, _QUOTE = b'\n\r"'
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Header:
    """The line that names the columns, and the separator that it has."""

    line: int
    separator: bytes
    cells: list[str]
    """The names as they are written, without outer spaces; empty where a column has none."""

    @property
    def names(self) -> list[str]:
        """The names of the columns. Separators at the end name none; a column between others without a name is `column_N`."""
        named = max((place for place, cell in enumerate(self.cells, 1) if cell), default=0)
        return [cell or f"column_{place}" for place, cell in enumerate(self.cells[:named], 1)]


@dataclass(frozen=True)
class Faulty:
    """A record that is no row: the line that it begins in, why, and its text."""

    line: int
    reason: str
    text: bytes


@dataclass(frozen=True)
class Rows:
    """Rows of text columns, in the order of the first header, an empty cell as null.

    `lines` are those that they begin in; `heights` are how many lines each has, more than one with line ends between quotes.
    """

    lines: Numbers
    heights: Numbers
    columns: list[Any]
    faulty: list[Faulty]


@dataclass(frozen=True)
class _Records:
    """Whole records: each is `text[starts[n]:ends[n]]`, begins in `lines[n]`, and its quotes are in order."""

    text: bytes
    starts: Numbers
    ends: Numbers
    lines: Numbers

    def between(self, first: int, last: int) -> "_Records":
        begin = int(self.starts[first]) if first < len(self.starts) else len(self.text)
        end = int(self.ends[last - 1]) if last > first else begin
        part = slice(first, last)
        return _Records(self.text[begin:end], self.starts[part] - begin, self.ends[part] - begin, self.lines[part])

    def heights(self) -> Numbers:
        """How many lines each record has."""
        if b'"' not in self.text:
            return np.ones(len(self.lines), np.int64)
        array = np.frombuffer(self.text, np.uint8)
        ends = np.flatnonzero(array == (_LF if b"\n" in self.text else _CR))
        # Its last line may have no end.
        return np.searchsorted(ends, self.ends - 1) - np.searchsorted(ends, self.starts) + 1

    def record(self, place: int) -> bytes:
        return self.text[self.starts[place] : self.ends[place]]


def find_headers(source: Source, needed: Sequence[str]) -> list[Header]:
    """The header, and every line further down that names the columns again, as where one export was appended to another.

    The header is the line near the top that names the most of `needed` (in any case), with the separator it does so by. A line
    below it is one if it names all of `needed` and most columns of the first. `FileError` if the file is empty or no text, or
    if a header names a column twice.
    """
    first = _find_first(source, needed)
    known = {name.lower() for name in first.names}
    wanted = {name.lower() for name in needed} & known or known
    # A name that every header has; the longest is the rarest in the data.
    name = max(wanted, key=len).encode()
    if not _is_said_again(source, name):
        return [first]
    found = [first]
    for records, _ in _records(source, first):
        for place in _places_of(name, records):
            cells = _cells(records.record(place), first.separator)
            names = {cell.lower() for cell in cells}
            if wanted <= names and 2 * len(names & known) > len(known):
                found.append(_checked(source, Header(int(records.lines[place]), first.separator, cells)))
    return found


def _is_said_again(source: Source, name: bytes) -> bool:
    """Whether a name stands more than once in a text."""
    count, tail = 0, b""
    for block in source.blocks():
        text = (tail + block).lower()
        count += text.count(name)
        if count > 1:
            return True
        tail = text[max(0, len(text) - len(name) + 1) :]
    return False


def _places_of(name: bytes, records: _Records) -> Iterator[int]:
    """The records that have a name in them."""
    text = records.text.lower()
    at = text.find(name)
    while at >= 0:
        place = int(np.searchsorted(records.starts, at, side="right")) - 1
        yield place
        at = text.find(name, int(records.ends[place]))


def _find_first(source: Source, needed: Sequence[str]) -> Header:
    text = b""
    for block in source.blocks():
        text += block
        if text.count(b"\n") > HEADER_LINES or len(text) > LINE_BYTES:
            break
    if not text.strip():
        raise FileError(f"{source.name} is empty")
    if text.lstrip()[:1] in (b"{", b"["):
        raise FileError(f"{source.name} is JSON; convert it to CSV or Parquet, or publish events with `churn replay`")
    wanted = {name.lower() for name in needed}
    best: tuple[tuple[int, int], Header] | None = None
    begin = 0
    for number in range(1, HEADER_LINES + 1):
        found_line = _LINE.match(text, begin)
        if found_line is None or begin == len(text):
            break
        line = found_line.group()
        for separator in SEPARATORS:
            found = _record(separator).match(text, begin) if line.strip() else None
            if found is None:
                continue
            cells = _cells(found.group(), separator)
            worth = len(wanted & {cell.lower() for cell in cells}), len(cells)
            # Among lines that name as many, the first counts, and in it the separator with the most fields.
            if best is None or worth[0] > best[0][0] or (best[1].line == number and worth > best[0]):
                best = worth, Header(number, separator, cells)
        begin = found_line.end()
        if best and best[0][0] == len(wanted) > 0:
            break
    if best is None or _CONTROL.search("".join(best[1].cells)):
        raise FileError(f"{source.name} is no text: line {best[1].line if best else 1} cannot be a header")
    return _checked(source, best[1])


def _checked(source: Source, header: Header) -> Header:
    lowered = [name.lower() for name in header.names]
    if twice := sorted({name for name in lowered if lowered.count(name) > 1}):
        raise FileError(f"line {header.line} of {source.name} names the column {twice[0]} twice; rename one")
    return header


def columns_of(headers: Sequence[Header]) -> list[str]:
    """The columns of all headers, each once, as it is written first."""
    columns: dict[str, str] = {}
    for header in headers:
        for name in header.names:
            columns.setdefault(name.lower(), name)
    return list(columns.values())


def read_rows(source: Source, headers: Sequence[Header]) -> Iterator[Rows]:
    """The rows below each header, with `columns_of` the headers; null where a row's header lacks the column."""
    names = [name.lower() for name in columns_of(headers)]
    above, *below = headers
    for records, faulty in _records(source, above):
        begin = 0
        while below and len(records.lines) and below[0].line <= records.lines[-1]:
            place = int(np.searchsorted(records.lines, below[0].line))
            yield _rows(source, records.between(begin, place), above, names)
            above, begin = below.pop(0), place + 1
        rows = _rows(source, records.between(begin, len(records.lines)) if begin else records, above, names)
        yield Rows(rows.lines, rows.heights, rows.columns, rows.faulty + faulty)


def _rows(source: Source, records: _Records, header: Header, all_names: Sequence[str]) -> Rows:
    names = [name.lower() for name in header.names]
    width, most = len(names), len(header.cells)
    separator = header.separator
    if not len(records.lines):
        return Rows(records.lines, records.lines, [pa.array([], pa.string()) for _ in all_names], [])
    parsed, odd = _parse(records.text, most, separator)
    if len(parsed) + len(odd) != len(records.lines):
        line = int(records.lines[0])
        raise FileError(f"{source.name} cannot be cut into rows from line {line} on; check its quotes there")
    places = np.delete(np.arange(len(records.lines)), odd)
    lengths = (records.ends - records.starts)[places]
    is_row = np.ones(len(places), bool)
    for place in np.flatnonzero(lengths <= 2):
        is_row[place] = records.record(int(places[place])).strip(b"\r\n") != b""
    for column in parsed.columns[width:]:
        beyond = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False) & is_row)
        is_row[beyond] = False
        odd += places[beyond].tolist()
    columns = [column.combine_chunks() for column in parsed.columns[:width]]
    lines = records.lines[places]
    heights = records.heights()[places]
    if not is_row.all():
        lines, heights, columns = (
            lines[is_row],
            heights[is_row],
            [column.filter(pa.array(is_row)) for column in columns],
        )
    faulty: list[Faulty] = []
    mended: list[list[str]] = []
    mended_places: list[int] = []
    for place in sorted(odd):
        text, line = records.record(place), int(records.lines[place])
        cells = _cells(text, separator, strip=False)
        while len(cells) > width and not cells[-1]:
            cells.pop()
        if len(cells) == width:
            mended.append(cells)
            mended_places.append(place)
        elif text.strip(b" \t\r\n\x1a"):
            faulty.append(
                Faulty(
                    line, "fewer fields than the header" if len(cells) < width else "more fields than the header", text
                )
            )
    if mended:
        lines = np.concatenate([lines, records.lines[mended_places]])
        heights = np.concatenate([heights, records.heights()[mended_places]])
        columns = [
            pa.concat_arrays([column, pa.array([cell or None for cell in cells], pa.string())])
            for column, cells in zip(columns, zip(*mended, strict=True), strict=True)
        ]
    by_name = dict(zip(names, columns, strict=True))
    nothing = None if len(by_name) == len(all_names) else pa.nulls(len(lines), pa.string())
    return Rows(lines, heights, [by_name.get(name, nothing) for name in all_names], faulty)


def _parse(text: bytes, width: int, separator: bytes) -> tuple[pa.Table, list[int]]:
    """The records with `width` fields, an empty line as one of them, and the places of the others."""
    odd: list[int] = []

    def note(row: arrow_csv.InvalidRow) -> str:
        odd.append(row.number - 1)
        return "skip"

    names = [f"c{place}" for place in range(width)]
    table = arrow_csv.read_csv(
        pa.BufferReader(text),
        # Without threads Arrow numbers the rows that it cannot take.
        arrow_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
        arrow_csv.ParseOptions(
            delimiter=separator.decode(), newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=note
        ),
        arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True, check_utf8=False
        ),
    )
    return table, odd


def _records(source: Source, header: Header) -> Iterator[tuple[_Records, list[Faulty]]]:
    """All records below the header, in pieces."""
    rest, line = b"", 1
    is_below = False
    for block, is_last in _with_last(source.blocks()):
        text = rest + block
        if not is_below:
            begin = 0
            while line < header.line and (found := _LINE.match(text, begin)):
                begin, line = found.end(), line + 1
            found = _record(header.separator).match(text, begin) if line == header.line else None
            # Not read as far as the end of the header.
            if found is None or (found.end() == len(text) and not is_last):
                rest, line = text, 1
                continue
            text, line, is_below = text[found.end() :], line + _line_ends(found.group()), True
        if text:
            records, faulty, used, line = _split(text, line, header, is_last)
            rest = text[used:]
            if source.is_damaged:
                records, damaged = _without_damaged(records)
                faulty += damaged
            yield records, faulty
        else:
            rest = b""
    if rest:
        raise FileError(f"{source.name} cannot be read from line {line} on; check its quotes there")


def _with_last(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each block, and whether it is the last; at least one."""
    before = None
    for block in blocks:
        if before is not None:
            yield before, False
        before = block
    yield before or b"", True


def _split(text: bytes, line: int, header: Header, is_last: bool) -> tuple[_Records, list[Faulty], int, int]:
    """The whole records of a text that begins with one, the faulty ones, how many bytes that was, and the line after them."""
    array = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(array == _LF)
    if b"\r" in text:
        alone = np.flatnonzero(array == _CR)
        # Before the next block is there, the last character may be half of CR LF.
        alone = alone[(array[np.minimum(alone + 1, len(array) - 1)] != _LF) & ((alone + 1 < len(array)) | is_last)]
        ends = np.sort(np.concatenate([ends, alone]))
    inner = ends
    if b'"' in text:
        quotes = np.flatnonzero(array == _QUOTE)
        if b'\\"' in text or not _in_order(array, quotes, header.separator[0]) or (is_last and len(quotes) % 2):
            return _split_one_by_one(text, line, header, is_last)
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    each_in_one_line = len(inner) == len(ends)
    ends = ends + 1
    if is_last and (not len(ends) or ends[-1] < len(text)):
        ends = np.append(ends, len(text))
    if not len(ends):
        if len(text) > LINE_BYTES:  # a quote that is never closed
            return _split_one_by_one(text, line, header, is_last)
        return _Records(b"", ends, ends, ends), [], 0, line
    starts = np.concatenate([[0], ends[:-1]])
    lines = line + (np.arange(len(starts)) if each_in_one_line else np.searchsorted(inner, starts))
    used = int(ends[-1])
    return _Records(text[:used], starts, ends, lines), [], used, line + int(np.searchsorted(inner, used))


def _in_order(array: npt.NDArray[np.uint8], quotes: Numbers, separator: int) -> bool:
    """Whether every quote opens a field at its begin, closes one at its end, or is one of two in the middle."""
    opening, closing = quotes[0::2], quotes[1::2]
    before = array[opening[opening > 0] - 1]
    after = array[closing[closing + 1 < len(array)] + 1]
    allowed = np.zeros(256, bool)
    allowed[[separator, _LF, _CR, _QUOTE]] = True
    return bool(allowed[before].all() and allowed[after].all())


def _split_one_by_one(text: bytes, line: int, header: Header, is_last: bool) -> tuple[_Records, list[Faulty], int, int]:
    """Like `_split`, for a text whose quotes are not in order: a line that cannot begin a record is faulty.

    What is no record of RFC 4180 with the header's number of fields is one if a backslash may stand before a quote.
    """
    separator, widths = header.separator, (len(header.names), len(header.cells))
    pieces: list[bytes] = []
    lines: list[int] = []
    faulty: list[Faulty] = []
    begin = 0
    while begin < len(text):
        may_go_on = not is_last and len(text) - begin <= LINE_BYTES
        found = _record(separator).match(text, begin)
        record = found.group() if found else b""
        if may_go_on and (found.end() == len(text) if found else _open(separator).match(text, begin)):
            break  # the next block may bring its end
        if found is None or (b'\\"' in record and len(_cells(record, separator)) not in widths):
            escaped = _escaped_record(separator).match(text, begin)
            if may_go_on and (escaped.end() == len(text) if escaped else _open_escaped(separator).match(text, begin)):
                break
            as_quoted = _escaped_field(separator).sub(_doubled, escaped.group()) if escaped else b""
            if escaped and (found is None or len(_cells(as_quoted, separator)) in widths):
                found, record = escaped, as_quoted
        whole = found or _LINE.match(text, begin)
        assert whole is not None
        if may_go_on and whole.end() == len(text):
            break
        if found:
            pieces.append(record)
            lines.append(line)
        else:
            faulty.append(Faulty(line, "a quote is not closed, or text follows it", whole.group()))
        line += _line_ends(whole.group())
        begin = whole.end()
    return _joined(pieces, lines), faulty, begin, line


def _joined(pieces: Sequence[bytes], lines: Sequence[int]) -> _Records:
    """Records that did not lie side by side, without blank lines: an LF alone would end the CR before it a second time."""
    kept = [(piece, line) for piece, line in zip(pieces, lines, strict=True) if piece.strip(b"\r\n")]
    ends = np.cumsum([len(piece) for piece, _ in kept], dtype=np.int64)
    starts = np.concatenate([[0], ends])[:-1].astype(np.int64)
    return _Records(b"".join(piece for piece, _ in kept), starts, ends, np.array([line for _, line in kept], np.int64))


def _without_damaged(records: _Records) -> tuple[_Records, list[Faulty]]:
    """The records without those that have bytes which are no UTF-8."""
    faulty: list[Faulty] = []
    kept = np.ones(len(records.lines), bool)
    begin = 0
    while begin < len(records.text):
        try:
            records.text[begin:].decode()
            break
        except UnicodeDecodeError as error:
            place = int(np.searchsorted(records.starts, begin + error.start, side="right")) - 1
            kept[place] = False
            faulty.append(
                Faulty(int(records.lines[place]), "not UTF-8, as the rest of the file is", records.record(place))
            )
            begin = int(records.ends[place])
    if not faulty:
        return records, []
    return _joined([records.record(int(place)) for place in np.flatnonzero(kept)], records.lines[kept].tolist()), faulty


_LINE = re.compile(rb"[^\r\n]*+(?:\r\n|\n|\r|\Z)")
_LINE_END = re.compile(rb"\r\n|\n|\r")


def _line_ends(text: bytes) -> int:
    return len(_LINE_END.findall(text)) if b"\r" in text else text.count(b"\n")


_IN_QUOTES = rb'[^"]*+(?:""[^"]*+)*+'
_IN_QUOTES_OR_ESCAPED = rb'[^"\\]*+(?:(?:""|\\(?s:.))[^"\\]*+)*+'


@cache
def _record(separator: bytes) -> re.Pattern[bytes]:
    """A record of RFC 4180; a field that does not begin with a quote may have some further on."""
    return _pattern(separator, rb"FIELD(?:SEPARATOR FIELD)*+(?:\r\n|\n|\r|\Z)", _IN_QUOTES)


@cache
def _escaped_record(separator: bytes) -> re.Pattern[bytes]:
    """Such a record with backslashes before quotes."""
    return _pattern(separator, rb"FIELD(?:SEPARATOR FIELD)*+(?:\r\n|\n|\r|\Z)", _IN_QUOTES_OR_ESCAPED)


@cache
def _open(separator: bytes) -> re.Pattern[bytes]:
    """The begin of a record that ends within a quoted field."""
    return _pattern(separator, rb'(?:FIELD SEPARATOR)*+"IN_QUOTES\Z', _IN_QUOTES)


@cache
def _open_escaped(separator: bytes) -> re.Pattern[bytes]:
    return _pattern(separator, rb'(?:FIELD SEPARATOR)*+"IN_QUOTES\\?+\Z', _IN_QUOTES_OR_ESCAPED)


@cache
def _escaped_field(separator: bytes) -> re.Pattern[bytes]:
    return _pattern(separator, rb'(?:\A|SEPARATOR)"IN_QUOTES"(?=SEPARATOR|\r|\n|\Z)', _IN_QUOTES_OR_ESCAPED)


def _doubled(field: re.Match[bytes]) -> bytes:
    """A quoted field with doubled quotes in the place of escaped ones."""
    return re.sub(rb'\\(["\\])', lambda escape: b'""' if escape[1] == b'"' else escape[1], field.group())


def _pattern(separator: bytes, form: bytes, in_quotes: bytes) -> re.Pattern[bytes]:
    apart = re.escape(separator)
    field = rb'(?:"IN_QUOTES"|(?:[^"SEPARATOR\r\n][^SEPARATOR\r\n]*+)?+)'
    form = form.replace(b" ", b"").replace(b"FIELD", field)
    return re.compile(form.replace(b"IN_QUOTES", in_quotes).replace(b"SEPARATOR", apart))


def _cells(record: bytes, separator: bytes, *, strip: bool = True) -> list[str]:
    """The fields of one record."""
    csv.field_size_limit(2 * LINE_BYTES)  # of the process
    text = record.decode(errors="replace").removeprefix(_MARK)
    cells: list[str] = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator.decode()), list[str]())
    return [cell.strip() for cell in cells] if strip else cells
