"""A store's identity: JSON outside, one frozen dataclass inside, one ``parse`` between."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from . import urls
from .errors import StoreError, StoreMismatch
from .layout import CONTRIBUTIONS
from .records import of_json, refuse_fields
from .second_order import SecondOrder

SCHEMA_VERSION = 4
# What the versions before this one did not keep, by the version that began to. Stores of them are
# read, and gone on with as they are.
_TRUNK = ("trunk_layers", "trunk_mlp_width")
_SINCE = {2: ("grid", "prefix"), 3: ("reading", "varying_bias"), 4: _TRUNK}
READINGS = ("class-token", "mean", "mean-of-normed", "attention-pool", "pixels")

# What may differ between the run that made a store and one that opens or resumes it.
PROVENANCE = ("versions", "revision", "source")


@dataclass(frozen=True)
class Metadata(SecondOrder):
    """All that tells one store from another.

    Attributes
    ----------
    schema_version : int
        That by which the store was made: what it means stays what it was.
    architecture : str
        Model name or config, as the user gave it.
    architecture_digest, weights_digest, image_list_digest : str
        sha256 hex digests.
    weights : str
        Pretrained tag, the file's name, or ``none:<seed>``.
    activation : str
        ``gelu`` or ``quickgelu``, as run in the image tower.
    preprocessing : dict
        How pictures become the model's input; ``decoding``, which stores of before may lack, how
        files become pictures.
    precision : str
        Arithmetic of the forward pass: ``fp32``, ``bf16`` or ``fp16``.
    store_dtype : str
        ``float16`` or ``float32``.
    components : tuple of str
        Of `layout.COMPONENTS`.
    token_layers : tuple of int
        Layers that ``tokens`` sums over.
    images, shard_size, layers, heads, head_dim, width, mlp_width, embed, tokens : int
        The axes.
    grid : pair of int
        Rows and columns of patches.
    prefix : int
        Tokens before the patches: the class token, which is the first, and registers; 0 where
        there are none.
    reading : str
        What the tail reads of the stream: one of `READINGS`.
    varying_bias : bool
        Whether ``bias_weights`` are kept.
    trunk_layers, trunk_mlp_width : int
        Of an attention pool: layers before it, and neurons of each; 0 where there are none, and in
        stores of before, which do not know.
    source : str
        Where the images came from (provenance).
    versions : dict
        Library versions (provenance).
    revision : str
        Facet's version and code revision (provenance).
    """

    architecture: str
    architecture_digest: str
    weights: str
    weights_digest: str
    activation: str
    preprocessing: dict[str, Any]
    precision: str
    store_dtype: str
    components: tuple[str, ...]
    token_layers: tuple[int, ...]
    image_list_digest: str
    images: int
    shard_size: int
    layers: int
    heads: int
    head_dim: int
    width: int
    mlp_width: int
    embed: int
    tokens: int
    grid: tuple[int, int]
    prefix: int
    reading: str = "class-token"
    varying_bias: bool = False
    trunk_layers: int = 0
    trunk_mlp_width: int = 0
    source: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    revision: str = ""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        rows, columns = self.grid
        if self.reading not in READINGS:
            raise StoreError(f"reading {self.reading!r} is none of {', '.join(READINGS)}")
        if self.tokens != self.prefix + rows * columns:
            raise StoreError(
                f"{self.tokens} tokens are not {self.prefix} before a grid of {rows} × {columns}"
            )

    @property
    def knows_trunk(self) -> bool:
        """Whether it was made when a trunk's layers were kept."""
        return not _absent(self.schema_version) & set(_TRUNK)

    @property
    def shards(self) -> int:
        """Number of shards; the last may be short."""
        return -(-self.images // self.shard_size)

    def rows(self, shard: int) -> tuple[int, int]:
        """First image of a shard and the one after its last."""
        return shard * self.shard_size, min((shard + 1) * self.shard_size, self.images)

    def to_json(self) -> dict[str, Any]:
        raw: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        absent = _absent(self.schema_version)
        return {name: value for name, value in raw.items() if name not in absent}

    def identity(self) -> dict[str, Any]:
        """The fields that must agree for two configurations to mean the same store."""
        return {k: v for k, v in self.to_json().items() if k not in PROVENANCE}

    def digest(self) -> str:
        """sha256 of the identity, hex."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


def parse(raw: Any) -> Metadata:
    """The metadata that a store's JSON holds.

    Raises
    ------
    StoreError
        If the JSON is of another schema version, or lacks or adds fields; all are named.
    """
    if not isinstance(raw, dict):
        raise StoreError("the store's metadata is missing: its creation was never finished")
    version = raw.get("schema_version")
    if version not in range(1, SCHEMA_VERSION + 1):
        raise StoreError(
            f"the store has schema version {version}; this Facet reads versions 1 to "
            f"{SCHEMA_VERSION}. Extract it again, or use the Facet that made it."
        )
    what = "the store's metadata"
    if absent := _absent(version):
        refuse_fields(raw, {f.name for f in fields(Metadata)} - absent, what)
        if version == 1:
            raw = {**raw, **_of_version_1(raw)}
        if "reading" in absent:  # all models were read at their class token, and nothing varied
            raw = {**raw, "reading": "class-token", "varying_bias": False}
        raw = {**raw, "trunk_layers": 0, "trunk_mlp_width": 0}
    return of_json(Metadata, raw, what)


def own_metadata(url: str) -> Metadata | None:
    """The metadata of the store at a URL; None where none was ever finished being created.

    Read as the JSON it is: zarr takes longer to import than all else that is asked of a store
    before work begins.
    """
    place = urls.join(url, CONTRIBUTIONS, "zarr.json")
    if not urls.exists(place):
        return None
    data = urls.read_bytes(place)
    try:
        raw = json.loads(data).get("attributes", {}).get("facet")
    except (ValueError, AttributeError) as error:
        raise StoreError(f"{place} is damaged: {error}. Put it back from a copy") from error
    return None if raw is None else parse(raw)


def _absent(version: Any) -> set[str]:
    """Fields that a version did not keep."""
    return {name for since, names in _SINCE.items() if version < since for name in names}


def _of_version_1(raw: dict[str, Any]) -> dict[str, Any]:
    """Grid and prefix of a store of version 1, whose models had a class token and no registers."""
    patches = raw["tokens"] - 1
    height, width = raw["preprocessing"].get("size", (1, 1))
    rows = max(1, round((patches * height / width) ** 0.5))
    if patches % rows:
        raise StoreError(
            f"the store has schema version 1, which keeps no grid, and its {patches} patches are "
            f"none as high and wide as an input of {height} × {width}: extract it again"
        )
    return {"grid": (rows, patches // rows), "prefix": 1}


def require_same(existing: Metadata, wanted: Metadata, url: str) -> None:
    """Refuse a store made with another configuration, naming every field that differs.

    A store of an older version is gone on with as it is: what it does not keep must only be as it
    is understood. A trunk is as the architecture has it, which is compared.
    """
    wanted = replace(wanted, schema_version=existing.schema_version)
    understood = _absent(existing.schema_version) - set(_TRUNK)
    old, new = (
        _flat({**m.identity(), **{name: _plain(m, name) for name in understood}})
        for m in (existing, wanted)
    )
    differing = [n for n in {**old, **new} if n not in old or n not in new or old[n] != new[n]]
    if not differing:
        return
    said = "; ".join(
        f"{n}: the store has {_said(old, n)}, this run asks for {_said(new, n)}" for n in differing
    )
    raise StoreMismatch(
        f"the store at {url} was made with another configuration ({said}): give the run another "
        "`store`, or the settings that the store was made with"
    )


def _plain(meta: Metadata, name: str) -> Any:
    value = getattr(meta, name)
    return list(value) if isinstance(value, tuple) else value


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """Fields that hold fields, as ``preprocessing.size``."""
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        parts = value if isinstance(value, dict) else {}
        flat |= {f"{name}.{part}": v for part, v in parts.items()} or {name: value}
    return flat


def _said(flat: dict[str, Any], name: str) -> str:
    return repr(flat[name]) if name in flat else "nothing"
