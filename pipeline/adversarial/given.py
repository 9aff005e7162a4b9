"""Files in place of stages: a text file, one thing a line, or a stage's own table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.images.decode import decode
from pipeline.images.errors import BadImage
from pipeline.images.lines import decode_text, lines
from storage.errors import FacetError

from .descriptions import given as described
from .drawing import FOLDER
from .rules import Rules
from .tables import CUES, DESCRIPTIONS, PICTURES

TABLES = (".parquet", ".pq", ".csv")


def file_digest(file: str) -> str:
    """sha256 of a file, hex."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def bytes_digest(files: Mapping[str, bytes]) -> str:
    """sha256 of files with their names, hex."""
    said = hashlib.sha256()
    for name, data in files.items():
        said.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    return said.hexdigest()


def read_cues(file: str) -> pd.DataFrame:
    """Cues from a file: without a column ``source`` it is ``given``, and all are used.

    Raises
    ------
    FacetError
        If it cannot be read, or has no texts.
    """
    found = _read(file, "cues_from", CUES["cues"], "text")
    found["rank"] = found.groupby(["source", "repeat"], sort=False).cumcount()
    return found


def read_descriptions(file: str, rules: Rules) -> pd.DataFrame:
    """Descriptions from a file; of lines, those that the rules allow are chosen.

    Raises
    ------
    FacetError
        If it cannot be read, or none can be used.
    """
    if Path(file).suffix.lower() in TABLES:
        found = _read(file, "descriptions_from", DESCRIPTIONS["descriptions"], "text")
    else:
        found = described(_lines(file, "descriptions_from"), rules)
    if not found["chosen"].any():
        why = "; ".join(f"{n} {w}" for w, n in found["why"].value_counts().items() if w)
        raise FacetError(f"`descriptions_from` {file}: none can be used{why and f' ({why})'}")
    return found


def read_pictures(file: str) -> tuple[pd.DataFrame, dict[str, bytes]]:
    """Pictures from a list or a table of them, and their files, by the names that they get.

    Places are relative to the file's folder. Of lines, each picture is a description of its own.

    Raises
    ------
    FacetError
        If it cannot be read, or one of its pictures.
    """
    table = Path(file).suffix.lower() in TABLES
    found = _read(file, "pictures_from", PICTURES["pictures"], "file")
    if not table:
        found["description"] = np.arange(len(found))
        found["text"] = found["file"]
    files: dict[str, bytes] = {}
    for i, place in enumerate(found["file"]):
        if not place:  # refused
            continue
        path = Path(file).parent / place
        if not path.is_file():
            raise FacetError(f"`pictures_from` {file}: there is no picture {path}")
        data = path.read_bytes()
        try:
            decode(data)
        except BadImage as error:
            raise FacetError(f"`pictures_from` {file}: {path}: {error}") from error
        name = f"{FOLDER}/{i:05d}{path.suffix.lower()}"
        files[name] = data
        found.loc[found.index[i], "file"] = name
    return found, files


# What a column that a file lacks stands for; of others there is nothing.
_PLAIN = {
    "source": "given",
    "used": True,
    "kept": True,
    "chosen": True,
    "became": "drawn",
    "there": None,
}
_NOTHING = {pa.int64(): 0, pa.string(): "", pa.float64(): np.nan}


def _read(file: str, setting: str, schema: pa.Schema, needed: str) -> pd.DataFrame:
    """A table with the columns of a stage."""
    if Path(file).suffix.lower() not in TABLES:
        found = pd.DataFrame({needed: _lines(file, setting)})
    else:
        try:
            csv = Path(file).suffix.lower() == ".csv"
            found = pd.read_csv(file, keep_default_na=False) if csv else pd.read_parquet(file)
        except (OSError, ValueError, pa.ArrowException) as error:
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise FacetError(f"`{setting}` {file} cannot be read as a table: {line}") from error
    if needed not in found or found.empty:
        raise FacetError(
            f"`{setting}` {file}: give lines of text, or a table with the column {needed!r} and at "
            "least one row"
        )
    columns = {
        field.name: _column(found[field.name], field)
        if field.name in found
        else [_PLAIN.get(field.name, _NOTHING.get(field.type, ()))] * len(found)
        for field in schema
    }
    try:
        whole = pd.DataFrame(columns)
        pa.Table.from_pandas(whole, schema=schema, preserve_index=False)
    except (ValueError, TypeError, pa.ArrowException) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise FacetError(
            f"`{setting}` {file} has other columns than the stage keeps: {line}"
        ) from error
    return whole


def _column(values: pd.Series, field: pa.Field) -> list[object]:
    """A column's values; of CSV truth and figures as they are written, and no lists."""
    if pa.types.is_list(field.type):
        return [() if isinstance(value, str) else list(value) for value in values]
    if pa.types.is_boolean(field.type):
        said = {"true": True, "false": False, "1": True, "0": False, "": None}
        return [said.get(str(value).lower()) for value in values]
    if pa.types.is_floating(field.type):
        return [np.nan if value == "" else value for value in values]
    return values.tolist()


def _lines(file: str, setting: str) -> list[str]:
    text, undecodable = decode_text(Path(file).read_bytes())
    if undecodable:
        raise FacetError(f"`{setting}` {file} is not UTF-8 text: convert it, or give Parquet")
    return [" ".join(line.split()) for line in lines(text) if line.strip()]
