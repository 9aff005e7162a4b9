"""WebDataset tars, as img2dataset and LAION write them.

Members that share a stem are one sample: images, ``.txt`` (caption), ``.cls`` (label) and
``.json`` (metadata; its ``label`` and ``caption`` serve where there is no file for them).
The stem is the member's name up to its last dot. A suffix that a sample already has begins
another sample of the same stem. Keys are ``<tar stem>/<member stem>``; ``offset`` and
``length`` give an image's bytes in the tar, so that any image can be read alone.
Names inside a tar are only ever text: nothing is opened or written under them.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa

from pipeline.lines import decode_text

from .errors import BadImage, SourceError
from .files import open_file
from .rows import (
    RESERVED,
    ListingReport,
    Piece,
    as_text,
    clean,
    image_table,
    is_hidden,
    is_image_name,
)

SIDECARS = (".txt", ".cls", ".json")
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
CUT_INSIDE = "tar is cut inside a member"
DAMAGED = "tar is damaged: what follows is not listed"
TAIL = 1 << 20  # bytes after the end marker that are looked at


@dataclass
class _Sample:
    stem: str
    suffixes: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)


def tar_piece(url: str) -> Piece:
    """A tar is one piece."""
    return Piece("tar", url, f"{_stem(url)}/")


def list_tar(piece: Piece) -> tuple[pa.Table, ListingReport]:
    """Rows in the order of the images in the tar."""
    report = ListingReport()
    samples: dict[str, _Sample] = {}
    images: list[tuple[_Sample, tarfile.TarInfo]] = []
    file, size = _open(piece.url)
    with file, _open_tar(piece.url, file) as tar:
        while member := _next(tar, piece.url, size, report):
            if not member.isfile() or member.issparse():
                report.add("tar member that is no plain file", member.name)
                continue
            name = member.name.removeprefix("./")
            stem, dot, suffix = name.rpartition(".")
            suffix = dot + suffix.lower()
            if is_hidden(name.rsplit("/", 1)[-1]):
                report.add("hidden tar member", name)
                continue
            if not is_image_name(name) and suffix not in SIDECARS:
                report.add("tar member that is neither image, .txt, .json nor .cls", name)
                continue
            sample = samples.get(stem)
            if sample is None or suffix in sample.suffixes:
                _report_orphan(sample, images, report)
                sample = samples[stem] = _Sample(stem)
            sample.suffixes.add(suffix)
            if is_image_name(name):
                images.append((sample, member))
            elif member.offset_data + member.size <= size:
                file.seek(member.offset_data)
                sample.texts[suffix], undecodable = decode_text(file.read(member.size))
                if undecodable:
                    report.add("text with bytes that are not UTF-8, replaced", name)
    for sample in samples.values():
        _report_orphan(sample, images, report)
    rows, metadata = [], []
    for sample, member in images:
        row, further = _row(piece, sample, member, report)
        rows.append(row)
        metadata.append(further)
    return image_table(rows, metadata, report), report


def _stem(url: str) -> str:
    return url.rsplit("/", 1)[-1].removesuffix(".tar")


def _open(url: str) -> tuple[IO[bytes], int]:
    try:
        return open_file(url)
    except (BadImage, FileNotFoundError, PermissionError) as error:
        raise SourceError(f"{url} cannot be read: {error}") from error


def _open_tar(url: str, file: IO[bytes]) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except (tarfile.TarError, ValueError) as error:
        file.seek(0)
        head = file.read(2)
        if head in COMPRESSED:
            raise SourceError(
                f"{url} is compressed ({COMPRESSED[head]}), so that no image in it can be read "
                "alone. Unpack it to a plain .tar."
            ) from error
        what = "is empty" if not head else "is not a tar"
        raise SourceError(f"{url} {what} ({error}). Remove it, or leave it out.") from error


def _next(
    tar: tarfile.TarFile, url: str, size: int, report: ListingReport
) -> tarfile.TarInfo | None:
    """The next member, or None at the end, which is reported if it is not a proper one."""
    tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it has seen
    try:
        member = tar.next()
    except (tarfile.TarError, ValueError):
        member, sound = None, False
    else:
        sound = member is None or member.size >= 0
    if member is not None and sound:
        if member.offset_data + member.size > size:
            report.add(CUT_INSIDE, f"{url}: {member.name}")
        return member
    trouble = _trouble_at_end(tar.fileobj, tar.offset) or ("" if sound else DAMAGED)
    if trouble and CUT_INSIDE not in report.counts:
        report.add(trouble, f"{url}, byte {tar.offset:,} of {size:,}")
    return None


def _trouble_at_end(file: Any, offset: int) -> str:
    # tarfile takes a cut or damaged header for the end and says nothing.
    file.seek(offset)
    tail = file.read(TAIL)
    if len(tail) < tarfile.BLOCKSIZE:
        return "tar is cut: it has no end marker"
    if any(tail[: tarfile.BLOCKSIZE]):
        return DAMAGED
    if any(tail):
        return "tar goes on after its end marker: what follows is not listed"
    return ""


def _report_orphan(
    sample: _Sample | None,
    images: list[tuple[_Sample, tarfile.TarInfo]],
    report: ListingReport,
) -> None:
    if sample and not any(is_image_name(s) for s in sample.suffixes):
        for suffix in sorted(sample.suffixes):
            report.add("tar member without an image", sample.stem + suffix)


def _row(
    piece: Piece, sample: _Sample, member: tarfile.TarInfo, report: ListingReport
) -> tuple[dict[str, Any], dict[str, Any]]:
    said = _parse_json(sample, report)
    cls, txt = sample.texts.get(".cls"), sample.texts.get(".txt")
    row = {
        "key": piece.space + clean(sample.stem),
        "uri": piece.url,
        "offset": member.offset_data,
        "length": member.size,
        "label": as_text(said.get("label")) if cls is None else cls.strip(),
        "caption": as_text(said.get("caption")) if txt is None else txt.strip(),
    }
    metadata = {}
    for name, value in said.items():
        name = clean(name)
        if name in RESERVED:
            same = sample.stem.rsplit("/", 1)[-1] if name == "key" else row.get(name)
            if value is None or as_text(value) == same:
                continue
            name = f"meta_{name}"
        metadata[name] = value
    return row, metadata


def _parse_json(sample: _Sample, report: ListingReport) -> dict[str, Any]:
    text = sample.texts.get(".json")
    if text is None:
        return {}
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        report.add("metadata is no JSON object", f"{sample.stem}.json")
        return {}
    return said
