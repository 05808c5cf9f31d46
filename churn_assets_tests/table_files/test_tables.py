"""Every record of a file becomes a row or a faulty row with its line, or the file is refused, whatever is in it."""

import bz2
import gzip
import io
import lzma
import os
import re
import zipfile
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from churn_assets.table_files import delimited, source
from churn_assets.table_files.source import FileError, find_files
from churn_assets.table_files.tables import open_table

HEAD = "id,day,name\n"
FEW, MANY = "fewer fields than the header", "more fields than the header"
QUOTE = "a quote is not closed, or text follows it"
NOT_UTF8 = "not UTF-8, as the rest of the file is"


def arrow_compressed(text: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(text)
    return sink.getvalue().to_pybytes()


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, HEAD)
    return file.getvalue()


def read(path: Path, needed: tuple[str, ...] = ("id", "day", "name")) -> list[tuple[object, ...]]:
    """The places with the row, or with the reason why it is none, in the order of the file."""
    rows: list[tuple[object, ...]] = []
    for batch in open_table(path, needed).batches():
        for place, _, fault, _, *values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            rows.append((place, fault) if fault else (place, *values))
    return sorted(rows, key=lambda row: row[0])


A, B = ("1", "d1", "a"), ("2", "d2", "b")
ROWS = b"id,day,name\n1,d1,a\n2,d2,b\n"
READ: list[tuple[object, ...]] = [(2, *A), (3, *B)]
KINDS: dict[str, tuple[bytes, list[tuple[object, ...]]]] = {
    # separators
    "commas": (ROWS, READ),
    "semicolons": (ROWS.replace(b",", b";"), READ),
    "tabs": (ROWS.replace(b",", b"\t"), READ),
    "bars": (ROWS.replace(b",", b"|"), READ),
    "other separators within fields": (b"id;day;name\n1;d,1;a|b\n", [(2, "1", "d,1", "a|b")]),
    "a line for Excel that names the separator": (b"sep=;\n" + ROWS.replace(b",", b";"), [(3, *A), (4, *B)]),
    # line ends
    "CR LF": (ROWS.replace(b"\n", b"\r\n"), READ),
    "CR": (ROWS.replace(b"\n", b"\r"), READ),
    "mixed line ends": (b"id,day,name\r\n1,d1,a\r2,d2,b\n", READ),
    "no line end after the last row": (ROWS.rstrip(), READ),
    "blank lines": (b"\n\nid,day,name\n\n1,d1,a\r\n\r\n  \n2,d2,b\n\n\x1a", [(5, *A), (8, *B)]),
    # quotes
    "every field in quotes": (b'"id","day","name"\n"1","d1","a"\n"2","d2","b"\n', READ),
    "doubled quotes": (
        b'id,day,name\n1,d1,"a ""b"", c"\n2,d2,""""\n',
        [(2, "1", "d1", 'a "b", c'), (3, "2", "d2", '"')],
    ),
    "an empty field in quotes": (b'id,day,name\n1,"",a\n', [(2, "1", None, "a")]),
    "a line end within quotes": (b'id,day,name\n1,d1,"a\nb\r\nc"\n2,d2,b\n', [(2, "1", "d1", "a\nb\r\nc"), (5, *B)]),
    "a header over two lines": (b'id,day,"name"\n1,d1,a\n', [(2, *A)]),
    "a backslash before a quote": (
        b'id,day,name\n1,d1,"a \\"b\\", c"\n2,d2,b\n',
        [(2, "1", "d1", 'a "b", c'), (3, *B)],
    ),
    "a backslash at the end of a field": (b'id,day,name\n1,d1,"C:\\"\n2,d2,"b"\n', [(2, "1", "d1", "C:\\"), (3, *B)]),
    "a backslash before a quote in the last row": (
        b'id,day,name\n1,d1,a\n"2\\"",d2,b',
        [(2, *A), (3, '2"', "d2", "b")],
    ),
    "two backslashes before a quote": (
        b'id,day,name\n1,d1,"a \\" b \\\\"\n2,d2,b\n',
        [(2, "1", "d1", 'a " b \\'), (3, *B)],
    ),
    "a quote within a field": (b'id,day,name\n1,d1,12" pipe\n2,d2,b\n', [(2, "1", "d1", '12" pipe'), (3, *B)]),
    "a quote that is never closed": (b'id,day,name\n1,d1,"a\n2,d2,b\n', [(2, QUOTE), (3, *B)]),
    "a quote that closes in another field": (b'id,day,name\n1,d1,"a\n2,d2,"b"\n', [(2, QUOTE), (3, *B)]),
    "text after a closing quote": (b'id,day,name\n1,d1,"a" x\n2,d2,b\n', [(2, QUOTE), (3, *B)]),
    "a first quote far down": (
        ROWS + b"".join(b"%d,d,n\n" % n for n in range(25_000)) + b'9,"d, 1",n\n',
        [*READ, *((n + 4, str(n), "d", "n") for n in range(25_000)), (25_004, "9", "d, 1", "n")],
    ),
    # header
    "names in other cases and with spaces": (b" ID , Day,NAME \n1,d1,a\n", [(2, *A)]),
    "lines above the header": (b"Customers of 2026\n\nby,Ann\n" + ROWS, [(5, *A), (6, *B)]),
    "two exports": (ROWS + ROWS, [*READ, (5, *A), (6, *B)]),
    "two exports with columns in another order": (ROWS + b"name,id,day\na,1,d1\n", [*READ, (5, *A)]),
    "two exports with another column": (
        ROWS + b"id,day,name,more\n1,d1,a,m\n",
        [(2, *A, None), (3, *B, None), (5, *A, "m")],
    ),
    "a second byte order mark": (b"\xef\xbb\xbf" + ROWS + b'\xef\xbb\xbf"id",day,name\n1,d1,a\n', [*READ, (5, *A)]),
    "a separator at the end of each line": (ROWS.replace(b"\n", b",\n"), READ),
    "a separator at the end of the rows": (b"id,day,name\n1,d1,a,\n2,d2,b,,\n", READ),
    "a separator at the end of the header": (b"id,day,name,\n1,d1,a\n2,d2,b,\n3,d3,c,x\n", [*READ, (4, MANY)]),
    "a column without a name": (b",id,day,name\n0,1,d1,a\n", [(2, "0", *A)]),
    "a header alone": (HEAD.encode(), []),
    # rows
    "a short row": (b"id,day,name\n1,d1\n2,d2,b\n", [(2, FEW), (3, *B)]),
    "a long row": (b"id,day,name\n1,d1,a,x\n2,d2,b\n", [(2, MANY), (3, *B)]),
    "a footer": (ROWS + b"-- 2 rows\n", [*READ, (4, FEW)]),
    "a row of separators": (ROWS + b",,\n", [*READ, (4, None, None, None)]),
    "a very wide row": (
        ROWS + b"3,d3," + b"x" * 5_000_000 + b"\n4,d4,c",
        [*READ, (4, "3", "d3", "x" * 5_000_000), (5, "4", "d4", "c")],
    ),
    # encodings
    "a byte order mark": (b"\xef\xbb\xbf" + ROWS, READ),
    "a byte order mark before a quote": (b'\xef\xbb\xbf"id",day,name\n1,d1,a\n', [(2, *A)]),
    "UTF-8": ("id,day,name\n1,d1,é😀\n".encode(), [(2, "1", "d1", "é😀")]),
    "Latin-1": ("id,day,name\n1,d1,Café\n".encode("latin-1"), [(2, "1", "d1", "Café")]),
    "cp1252": ("id,day,name\n1,d1,5 €\n".encode("cp1252"), [(2, "1", "d1", "5 €")]),
    "Latin-1 far down": (
        ROWS + b"3,d3,c\n" * 30_000 + "4,d4,é\n".encode("latin-1"),
        [*READ, *((n + 4, "3", "d3", "c") for n in range(30_000)), (30_004, "4", "d4", "é")],
    ),
    "a NEL character, which ends no line": (
        "id,day,name\n1,d1,a\x85b\u2028c\n".encode(),
        [(2, "1", "d1", "a\x85b\u2028c")],
    ),
    "single bytes that are no UTF-8": (
        "id,day,name\n1,d1,é\n2,".encode() + b"\xff,b\n3,d3,c\n",
        [(2, "1", "d1", "é"), (3, NOT_UTF8), (4, "3", "d3", "c")],
    ),
    **{
        f"{name}{' with' if mark else ' without'} a mark": (
            mark + "id,day,name\n1,d1,é\n".encode(name),
            [(2, "1", "d1", "é")],
        )
        for name, mark in (
            ("utf-16-le", b"\xff\xfe"),
            ("utf-16-be", b"\xfe\xff"),
            ("utf-16-le", b""),
            ("utf-16-be", b""),
            ("utf-32-le", b"\xff\xfe\0\0"),
        )
    },
    # compression
    "gzip": (gzip.compress(ROWS), READ),
    "gzip in two members": (gzip.compress(ROWS) + gzip.compress(b"3,d3,c\n"), [*READ, (4, "3", "d3", "c")]),
    "bzip2": (bz2.compress(ROWS), READ),
    "xz": (lzma.compress(ROWS), READ),
    "zstd": (arrow_compressed(ROWS, "zstd"), READ),
    "zstd in two frames": (
        arrow_compressed(ROWS, "zstd") + arrow_compressed(b"3,d3,c\n", "zstd"),
        [*READ, (4, "3", "d3", "c")],
    ),
    "lz4": (arrow_compressed(ROWS, "lz4"), READ),
    "UTF-16 in gzip": (gzip.compress(b"\xff\xfe" + ROWS.decode().encode("utf-16-le")), READ),
}


@pytest.mark.parametrize(("content", "rows"), KINDS.values(), ids=KINDS.keys())
def test_each_record_is_a_row_or_a_fault_with_its_line(tmp_path: Path, content: bytes, rows: list[tuple[object, ...]]):
    file = tmp_path / "rows.csv"
    file.write_bytes(content)

    assert read(file) == rows


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is empty"),
    "blank lines alone": (b"\n \n", "is empty"),
    "a zip": (zipped("a.csv"), "is a ZIP archive"),
    "an Excel workbook": (zipped("[Content_Types].xml"), "is an Excel workbook; save the sheet as CSV"),
    "JSON lines": (b'\n{"id": 1}\n', "is JSON; convert it"),
    "a JSON array": (b'[\n {"id": 1}\n]', "is JSON; convert it"),
    "bytes": (bytes(range(256)) * 9, "is neither UTF-8 nor Latin-1 nor cp1252|is no text"),
    "zeros": (bytes(5000), "is no text"),
    "half of a gzip": (gzip.compress(ROWS * 999)[:-20], "cannot be read: Compressed file ended"),
    "half of a zstd": (arrow_compressed(os.urandom(9999), "zstd")[:5000], "cannot be read: "),
    "half of an xz": (lzma.compress(ROWS)[:-20], "cannot be read: Compressed file ended"),
    "rubbish after a gzip": (gzip.compress(ROWS) + b"rubbish", "cannot be read: Not a gzipped file"),
    "Parquet in gzip": (gzip.compress(b"PAR1"), "is a compressed Parquet file; unpack it"),
    "half of a Parquet file": (b"PAR1xxxxxxxxxxx", "cannot be read: Parquet magic bytes not found in footer"),
    "a column twice": (b"\nid,day,name,ID\n1,2,3,4\n", "line 2 of .* names the column id twice"),
    "a column twice in a second header": (ROWS + b"id,day,name,day\n", "line 4 of .* names the column day twice"),
    "UTF-16 that breaks off": (b"\xff\xfe" + ROWS.decode().encode("utf-16-le")[:-1], "is not UTF-16-LE from line 1 on"),
    "a line without an end": (ROWS + b"x" * 20_000_000, "line 4 of .* is longer than"),
    "another code page": (ROWS + b"3,d3,\x81\x8d\n", "is neither UTF-8 nor Latin-1 nor cp1252: see line 4"),
}


@pytest.mark.parametrize(("content", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_that_is_no_table_is_refused_saying_why(tmp_path: Path, content: bytes, error: str):
    file = tmp_path / "rows.csv"
    file.write_bytes(content)

    with pytest.raises(FileError, match=error) as raised:
        read(file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "far down" not in kind and "wide" not in kind])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_it_does_not_matter_where_the_blocks_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: int):
    monkeypatch.setattr(source, "BLOCK_BYTES", size)
    content, rows = KINDS[kind]
    file = tmp_path / "rows.csv"
    file.write_bytes(content)

    assert read(file) == rows


def test_a_quote_that_is_never_closed_costs_its_line_alone_however_long_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(delimited, "LINE_BYTES", 100)
    monkeypatch.setattr(source, "BLOCK_BYTES", 64)
    file = tmp_path / "rows.csv"
    file.write_bytes(b'id,day,name\n1,d1,"a\n' + b"2,d2,b\n" * 50)

    assert read(file) == [(2, QUOTE), *((line, *B) for line in range(3, 53))]


def as_parquet(path: Path, **columns: object) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array([1, None]), [1, None]),
        (pa.array([Decimal("1.10")]), [Decimal("1.10")]),
        (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (pa.array([b"A1"]), ["A1"]),
        (pa.nulls(1), [None]),
        (pa.array([{"a": 1}]), [{"a": 1}]),
        (pa.array([1.5], pa.float32()), [1.5]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_parquet_is_known_by_its_content_and_keeps_its_types(tmp_path: Path, column: pa.Array, values: list[object]):
    file = as_parquet(tmp_path / "rows.csv", id=column)

    assert read(file, ("id",)) == [(row, value) for row, value in enumerate(values, 1)]


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    file = as_parquet(tmp_path / "rows.parquet", id=pa.array([b"\xff"]))

    with pytest.raises(FileError, match=r"the column id of .*rows.parquet holds bytes that are no text"):
        read(file, ("id",))


@pytest.mark.parametrize(
    "name",
    [
        "file[1].csv",
        "a*.csv",
        "a?.csv",
        'it\'s "it".csv',
        "day=2026-01-01/id=9.csv",
        "two\nlines.csv",
        b"caf\xe9.csv",
        " .csv",
    ],
)
def test_a_file_may_have_any_name(tmp_path: Path, name: str | bytes):
    file = tmp_path / os.fsdecode(name)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(ROWS)
    (tmp_path / "file1.csv").write_bytes(ROWS)

    assert find_files([str(file)]) == [file]
    assert read(file) == READ
    assert open_table(file, ()).name.isprintable()


def test_patterns_name_files_each_once_and_one_without_any_is_an_error(tmp_path: Path):
    for name in ("b.csv", "a.csv", "deep/er/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "link.csv").symlink_to("a.csv")

    assert find_files([f"{tmp_path}/*.csv", f"{tmp_path}/a.csv"]) == [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert find_files([f"{tmp_path}/deep/**"]) == [tmp_path / "deep/er/c.csv"]
    with pytest.raises(FileError, match="there is no file"):
        find_files([f"{tmp_path}/*.parquet"])


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: path.mkdir(), "is a folder; name its files"),
        (os.mkfifo, "is no regular file"),
        (lambda path: path.symlink_to("nowhere"), "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_file_is_refused(tmp_path: Path, make, error: str):
    make(tmp_path / "rows.csv")

    with pytest.raises(FileError, match=error):
        read(tmp_path / "rows.csv")


@pytest.mark.parametrize("change", ["grows", "is swapped", "grows while it is read"])
def test_a_file_that_changes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str):
    monkeypatch.setattr(source, "BLOCK_BYTES", 8)
    file = tmp_path / "rows.csv"
    file.write_bytes(ROWS)
    table = open_table(file, ("id", "day", "name"))
    batches = table.batches()
    if change == "grows while it is read":
        next(batches)
    if change == "is swapped":
        other = tmp_path / "other.csv"
        other.write_bytes(ROWS)
        other.replace(file)
    else:
        file.write_bytes(ROWS + b"3,d3,c\n")

    with pytest.raises(FileError, match="changed while it was read; load it again"):
        list(batches)


@given(text=st.text('a,;"\\\n\r', max_size=60), size=st.integers(1, 9))
def test_no_text_loses_a_line_wherever_the_blocks_end(tmp_path_factory: pytest.TempPathFactory, text: str, size: int):
    file = tmp_path_factory.mktemp("text") / "rows.csv"
    file.write_bytes(HEAD.encode() + text.encode())
    with pytest.MonkeyPatch.context() as monkeypatch:
        whole = read(file)
        monkeypatch.setattr(source, "BLOCK_BYTES", size)
        assert read(file) == whole

    # Each line that is not blank belongs to a row, or to the one that begins above it.
    lines = re.split("\r\n|\n|\r", text)
    places = [int(str(place)) for place, *_ in whole]
    assert len(set(places)) == len(places)
    for number, line in enumerate(lines, 2):
        if line.strip():
            row = max((place for place in places if place <= number), default=0)
            assert row == number or '"' in "\n".join(lines[row - 2 : number - 1])
