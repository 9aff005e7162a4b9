"""What is searched for: images of the store, picture files, texts; given singly, or in a file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from storage import urls
from storage.errors import FacetError

Kind = Literal["image", "picture", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# What a file of queries may hold, columns of a table or halves of a line.
COLUMNS = ("kind", "query")


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes
    ----------
    kind : {"image", "picture", "text"}
    asked : str
        The image's key or number, the picture's file, or the text.
    """

    kind: Kind
    asked: str


def given(images: Sequence[str], pictures: Sequence[str], texts: Sequence[str]) -> list[Query]:
    """Queries that were named one by one."""
    kinds: dict[Kind, Sequence[str]] = {"image": images, "picture": pictures, "text": texts}
    return [Query(kind, asked) for kind, of_kind in kinds.items() for asked in of_kind]


def read_queries(file: str) -> list[Query]:
    """Queries from a file: Parquet with the columns ``kind`` and ``query``, or lines of both with a
    tab between them; empty lines are passed over.

    Raises
    ------
    FacetError
        If there is no such file, or a line is no query.
    """
    try:
        data = urls.read_bytes(urls.absolute(file))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FacetError(f"`queries` {file}: there is no such file") from error
    rows = _of_table(file, data) if data[:4] == b"PAR1" else _of_lines(file, data)
    found = [_query(file, at, kind, asked) for at, kind, asked in rows]
    if not found:
        raise FacetError(f"`queries` {file} holds no query: give kind and query, a line each")
    return found


def _of_table(file: str, data: bytes) -> Iterable[tuple[int, str, str]]:
    try:
        table = pq.read_table(io.BytesIO(data))
    except pa.ArrowException as error:
        raise FacetError(f"`queries` {file} cannot be read: {error}") from error
    if lacking := [name for name in COLUMNS if name not in table.column_names]:
        raise FacetError(
            f"`queries` {file} has no column {', '.join(lacking)}; its columns are "
            f"{', '.join(table.column_names)}, and {' and '.join(COLUMNS)} are read"
        )
    columns = (table[name].to_pylist() for name in COLUMNS)
    for at, (kind, asked) in enumerate(zip(*columns, strict=True), 1):
        yield at, str(kind or ""), str("" if asked is None else asked)


def _of_lines(file: str, data: bytes) -> Iterable[tuple[int, str, str]]:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FacetError(f"`queries` {file} is neither Parquet nor text") from error
    for at, line in enumerate(lines, 1):
        if line.strip():
            kind, _, asked = line.partition("\t")
            yield at, kind, asked


def _query(file: str, at: int, kind: str, asked: str) -> Query:
    for one in KINDS:
        if one == kind.strip() and asked.strip():
            return Query(one, asked.strip())
    raise FacetError(
        f"`queries` {file}, row {at}: {kind!r} with {asked!r} is no query: give image, picture or "
        "text and, after a tab, which"
    )


def tidied(queries: Iterable[Query]) -> tuple[Query, ...]:
    """Each once, texts trimmed.

    Raises
    ------
    FacetError
        If there is none, or a text is empty.
    """
    found = [Query(q.kind, " ".join(q.asked.split())) if q.kind == "text" else q for q in queries]
    if any(not query.asked for query in found):
        raise FacetError("a query is empty: say what to search for")
    if not found:
        raise FacetError("say what to search for: `image`, `picture`, `text` or `queries`")
    return tuple(dict.fromkeys(found))
