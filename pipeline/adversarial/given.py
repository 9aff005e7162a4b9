"""Files in place of stages: a text file, one thing a line, or a stage's own table."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.identity import held
from pipeline.images.decode import decode
from pipeline.images.errors import BadImage
from pipeline.images.lines import lines
from storage.errors import FacetError

from .descriptions import given as described
from .drawing import FOLDER, one_colour
from .files import read_text
from .rules import Rules
from .tables import CUES, DESCRIPTIONS, PICTURES

TABLES = (".parquet", ".pq", ".csv")


def file_identity(file: str) -> list[str]:
    """What decides what is read of a file: which table it is, if it is one, and what it holds."""
    ending = Path(file).suffix.lower()
    return [ending if ending in TABLES else "", held(file)]


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
    if not found["used"].any():
        raise FacetError(f"`cues_from` {file}: of its {len(found)} cues none is used")
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
        texts = [" ".join(line.split()) for line in _lines(file, "descriptions_from")]
        found = described(texts, rules)
    if not found["chosen"].any():
        why = "; ".join(f"{n} {w}" for w, n in found["why"].value_counts().items() if w)
        raise FacetError(f"`descriptions_from` {file}: none can be used{why and f' ({why})'}")
    return found


def read_pictures(file: str) -> tuple[pd.DataFrame, dict[str, bytes], dict[str, str]]:
    """Pictures from a list or a table of them; by the names that they get, their files and what
    they were called.

    Places are relative to the file's folder. Where it is not said of which description they are,
    each is of its own; where it is not said what became of them, those of one colour are blank.

    Raises
    ------
    FacetError
        If it cannot be read, or one of its pictures.
    """
    found = _read(file, "pictures_from", PICTURES["pictures"], "file")
    found.loc[found["text"] == "", "text"] = found["file"]
    files: dict[str, bytes] = {}
    own: dict[str, str] = {}
    for i, (place, became) in enumerate(zip(found["file"], found["became"], strict=True)):
        if (became == "refused") != (not place):
            raise FacetError(
                f"`pictures_from` {file}, row {i + 1}: a picture that was refused has no file, and "
                "any other has one"
            )
        if not place:
            continue
        path = Path(file).parent / place
        if not path.is_file():
            raise FacetError(f"`pictures_from` {file}: there is no picture {path}")
        data = path.read_bytes()
        try:
            image = decode(data)
        except BadImage as error:
            raise FacetError(f"`pictures_from` {file}: {path}: {error}") from error
        name = f"{FOLDER}/{i:05d}{path.suffix.lower()}"
        files[name], own[name] = data, place
        found.loc[i, "file"] = name
        if not became:
            colour = one_colour(image)
            found.loc[i, ["became", "why"]] = ["blank" if colour else "drawn", colour]
    found.loc[found["became"] != "drawn", "there"] = None
    return found, files, own


# What a column that a file lacks stands for; of others there is nothing.
_PLAIN = {"source": "given", "used": True, "kept": True, "chosen": True, "there": None}
_NOTHING = {pa.int64(): 0, pa.string(): "", pa.float64(): np.nan}
# What tells rows of a stage's table apart. The last of them are counted where a file lacks them.
_KEYS = {
    "cues_from": (),
    "descriptions_from": ("source", "repeat", "number"),
    "pictures_from": ("source", "repeat", "description", "number"),
}
_BECAME = ("drawn", "blank", "refused")
# Files are named by sources.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def _read(file: str, setting: str, schema: pa.Schema, needed: str) -> pd.DataFrame:
    """A table with the columns of a stage, whose rows are numbered from 0."""
    if Path(file).suffix.lower() not in TABLES:
        found = pd.DataFrame({needed: _lines(file, setting)})
    else:
        found = _table(file, setting)
    if needed not in found or found.empty:
        raise FacetError(
            f"`{setting}` {file}: give lines of text, or a table with the column {needed!r} and at "
            "least one row"
        )
    columns = {}
    for field in schema:
        if field.name not in found:
            columns[field.name] = [_PLAIN.get(field.name, _NOTHING.get(field.type, ()))] * len(
                found
            )
            continue
        columns[field.name] = []
        for i, value in enumerate(found[field.name].tolist()):
            try:
                columns[field.name].append(_value(value, field, needed))
            except ValueError as error:
                raise FacetError(
                    f"`{setting}` {file}, row {i + 1}, column {field.name!r}: {str(value)[:60]!r} "
                    f"is not {error}"
                ) from None
    whole = pd.DataFrame(columns).astype({n: object for n in ("there",) if n in columns})
    _number(whole, _KEYS[setting], set(map(str, found)))
    again = whole.duplicated(list(_KEYS[setting])) if _KEYS[setting] else ()
    if any(again):
        raise FacetError(
            f"`{setting}` {file}, row {int(np.argmax(again)) + 1}: a row before it has the same "
            f"{', '.join(_KEYS[setting])}"
        )
    return whole


def _table(file: str, setting: str) -> pd.DataFrame:
    """A file's table as it is; of CSV all values as they are written."""
    try:
        if Path(file).suffix.lower() != ".csv":
            return pd.read_parquet(file)
        text = io.StringIO(read_text(file, setting))
        return pd.read_csv(text, keep_default_na=False, dtype=str, index_col=False)
    except (OSError, ValueError, pa.ArrowException) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise FacetError(f"`{setting}` {file} cannot be read as a table: {line}") from error


def _number(whole: pd.DataFrame, keys: tuple[str, ...], known: set[str]) -> None:
    """Count what tells rows apart, where a file does not say it."""
    for at, key in enumerate(keys):
        if key in known or key not in ("number", "description"):
            continue
        if key == "number":
            whole[key] = whole.groupby(list(keys[:at]), sort=False).cumcount()
        elif "text" in known:
            whole[key] = pd.factorize(whole["text"])[0]
        else:
            whole[key] = np.arange(len(whole))


def _value(value: Any, field: pa.Field, needed: str) -> object:
    """A value as its column has it; a ValueError says what would be one."""
    if pa.types.is_list(field.type):  # of CSV there are none
        listed = [] if value is None or np.isscalar(value) else list(value)
        if not all(isinstance(of, str) for of in listed):
            raise ValueError("a list of texts")
        return listed
    empty = value is None or (isinstance(value, float) and math.isnan(value)) or value == ""
    if pa.types.is_string(field.type):
        return _string("" if empty else value, field.name, needed)
    if pa.types.is_boolean(field.type):
        if empty and field.name == "there":  # nobody knows
            return None
        if (said := _TRUTH.get(str(value).strip().lower())) is None:
            raise ValueError("true or false")
        return said
    if pa.types.is_floating(field.type):
        try:
            number = np.nan if empty else float(value)
        except (TypeError, ValueError):
            number = np.inf
        if np.isinf(number):
            raise ValueError("a finite number")
        return number
    last = 2**63 if field.name == "seed" else 2**31
    try:
        whole = int(value)
        if empty or whole != (value if isinstance(value, float) else whole) or whole < 0:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        whole = last
    if whole >= last:
        raise ValueError(f"a whole number from 0 and below {last}")
    return whole


def _string(value: Any, name: str, needed: str) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    if name == "source" and not _NAME.fullmatch(value):
        raise ValueError("a short name of letters, figures, - and _")
    if name == "became" and value not in _BECAME:
        raise ValueError(", ".join(_BECAME))
    if name != "text":
        return value
    text = " ".join(value.split())
    if not text and name == needed:
        raise ValueError("a text")
    return text


def _lines(file: str, setting: str) -> list[str]:
    return [line.strip() for line in lines(read_text(file, setting)) if line.strip()]
