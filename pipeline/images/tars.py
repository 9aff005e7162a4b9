"""WebDataset tars, as img2dataset and LAION write them.

A member's base name up to its **first** dot, with the folders before it, is the key of its
sample; what follows the dot is a field of it. The image is the field ``jpg`` (then ``png``,
``jpeg``, ``webp``, any other suffix of a picture), else ``image.jpg``, ``img.jpg`` or
``input.jpg`` and so on, else the only picture. Other pictures (masks, depths, targets) are
reported and not listed. Texts in the same way: ``txt`` is the caption, ``cls`` the label, ``json``
metadata (its ``label`` and ``caption`` serve where there is no file for them), or the only field
that ends so. A field that a sample already has begins another sample of the same key.

Keys in the image list are ``<tar stem>/<key of the sample>``; ``offset`` and ``length`` give an
image's bytes in the tar, so that any image can be read alone. Names inside a tar are only ever
text: nothing is opened or written under them.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from .errors import BadImage, SourceError
from .files import open_file
from .lines import decode_text
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

SIDECARS = ("txt", "cls", "json")
PLAIN = ("jpg", "png", "jpeg", "webp")  # in the order in which OpenCLIP takes them
NAMED = ("", "image", "img", "input")
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
CUT_INSIDE = "tar is cut inside a member"
DAMAGED = "tar is damaged: what follows is not listed"
TAIL = 1 << 20  # bytes after the end marker that are looked at


@dataclass
class _Sample:
    key: str
    pictures: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def tar_piece(url: str) -> Piece:
    """A tar is one piece."""
    return Piece("tar", url, f"{_stem(url)}/")


def list_tar(piece: Piece) -> tuple[pa.Table, ListingReport]:
    """Rows in the order of the images in the tar."""
    report = ListingReport()
    samples = _samples(piece.url, report)
    images = sorted(_images(samples, report), key=lambda image: image[1].offset_data)
    rows, metadata = [], []
    for sample, member in images:
        row, more = _row(piece, sample, member, report)
        rows.append(row)
        metadata.append(more)
    return image_table(rows, metadata, report), report


def keys_past_dots(rows: pa.Table) -> bool:
    """Whether rows of a store's image table have keys that go on after a name's first dot.

    Earlier stores have such keys: ``0001.seg`` for ``0001.seg.png``.
    """
    in_tars = pc.match_substring_regex(rows["uri"], r"(?i)\.tar$")
    dotted = pc.match_substring_regex(rows["key"], r"\.[^/]*$")
    return bool(pc.any(pc.and_(in_tars, dotted)).as_py())


def _samples(url: str, report: ListingReport) -> list[_Sample]:
    """All samples, with the members that can be the image or tell something of it."""
    samples: list[_Sample] = []
    latest: dict[str, _Sample] = {}
    file, size = _open(url)
    with file, _open_tar(url, file) as tar:
        while member := _next(tar, url, size, report):
            if not member.isfile() or member.issparse():
                report.add("tar member that is no plain file", member.name)
                continue
            name = member.name.removeprefix("./")
            folder, slash, base = name.rpartition("/")
            if is_hidden(base):
                report.add("hidden tar member", name)
                continue
            stem, _, field_name = base.partition(".")
            key, field_name = f"{folder}{slash}{stem}", field_name.lower()
            is_text = field_name.rpartition(".")[2] in SIDECARS
            if not is_image_name(base) and not is_text:
                report.add("tar member that is neither image, .txt, .json nor .cls", name)
                continue
            sample = latest.get(key)
            if sample is None or field_name in sample.pictures or field_name in sample.texts:
                sample = latest[key] = _Sample(key)
                samples.append(sample)
            if not is_text:
                sample.pictures[field_name] = member
                continue
            sample.texts[field_name] = ""
            if member.offset_data + member.size <= size:
                file.seek(member.offset_data)
                sample.texts[field_name], undecodable = decode_text(file.read(member.size))
                if undecodable:
                    report.add("text with bytes that are not UTF-8, replaced", name)
    return samples


def _images(
    samples: list[_Sample], report: ListingReport
) -> Iterator[tuple[_Sample, tarfile.TarInfo]]:
    """Every sample that has an image, and the image; pictures that are none are reported."""
    chosen = [_image_field(list(sample.pictures)) for sample in samples]
    # What is a mask in one sample is no image in another, where the image is missing.
    beside = {
        name
        for sample, image in zip(samples, chosen, strict=True)
        for name in sample.pictures
        if image not in (None, name) and "." in name
    }
    for sample, image in zip(samples, chosen, strict=True):
        if not sample.pictures:
            reason = "tar member without an image"
        elif image is None:
            reason = "picture of a sample (its key ends at the first dot) without a plain KEY.jpg"
        elif image in beside:
            image, reason = None, "picture of a sample whose image is missing"
        else:
            reason = "further picture of a sample, not an image of its own"
        for name in sample.pictures:
            if name != image:
                report.add(reason, f"{sample.key}.{name}")
        if image is not None:
            yield sample, sample.pictures[image]
        else:
            for name in sample.texts:
                report.add("tar member without an image", f"{sample.key}.{name}")


def _image_field(names: list[str]) -> str | None:
    """Which of a sample's pictures is the image; None where that cannot be told."""
    ranked = []
    for name in names:
        stem, _, suffix = name.rpartition(".")
        if stem in NAMED:
            ranked.append((NAMED.index(stem), (*PLAIN, suffix).index(suffix), name))
    only = names[0] if len(names) == 1 else None
    return min(ranked, key=lambda found: found[:2])[2] if ranked else only


def _text(sample: _Sample, suffix: str, report: ListingReport) -> str | None:
    """The text of a kind: ``txt`` itself, or the only field that ends so."""
    names = [name for name in sample.texts if name.rpartition(".")[2] == suffix]
    chosen = suffix if suffix in names else names[0] if len(names) == 1 else None
    for name in names:
        if name != chosen:
            report.add("further text of a sample, not read", f"{sample.key}.{name}")
    return None if chosen is None else sample.texts[chosen]


def _stem(url: str) -> str:
    return re.sub(r"\.tar$", "", url.rsplit("/", 1)[-1], flags=re.IGNORECASE)


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


def _row(
    piece: Piece, sample: _Sample, member: tarfile.TarInfo, report: ListingReport
) -> tuple[dict[str, Any], dict[str, Any]]:
    txt, cls, json_text = (_text(sample, suffix, report) for suffix in SIDECARS)
    said = _parse_json(json_text, f"{sample.key}.json", report)
    row = {
        "key": piece.space + clean(sample.key),
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
            same = sample.key.rsplit("/", 1)[-1] if name == "key" else row.get(name)
            if value is None or as_text(value) == same:
                continue
            name = f"meta_{name}"
        while name in metadata:
            name = f"meta_{name}"
        metadata[name] = value
    return row, metadata


def _parse_json(text: str | None, name: str, report: ListingReport) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        report.add("metadata is no JSON object", name)
        return {}
    return said
