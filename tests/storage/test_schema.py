"""`SCHEMA.md` is the law: the code must say the same."""

import hashlib
import re
from dataclasses import fields
from pathlib import Path

import pyarrow as pa

import storage
from pipeline.adversarial.indirect import INDIRECT
from pipeline.adversarial.tables import CUES, JUDGED, PICTURES
from pipeline.adversarial.tables import DESCRIPTIONS as DESCRIBED
from pipeline.between.tables import ALIGNED
from pipeline.concepts.tables import CONCEPTS, OVER
from pipeline.heads.tables import ABLATIONS, DESCRIPTIONS, TWO_SETS
from pipeline.heatmaps.found import HEATMAPS
from pipeline.heatmaps.tables import SEGMENTATION
from pipeline.labels.tables import LABELS
from pipeline.neurons.tables import CODES, EFFECTS, NEURONS
from pipeline.repair.tables import REPAIRS
from pipeline.rosetta.tables import INVERSIONS, SHARED, TRUTH
from pipeline.search.approximate import Facts
from pipeline.search.found import SEARCH
from pipeline.texts.encoding import TEXTS
from storage.head_index import PartFacts
from storage.layout import (
    COMPONENTS,
    EMBEDDING,
    ROWS_PER_IMAGE_PART,
    ROWS_PER_INDEX_CHUNK,
    block_part,
    contribution_arrays,
    head_part,
    images_per_chunk,
    index_array,
    model_arrays,
)
from storage.ledger import SCHEMA
from storage.metadata import PROVENANCE, SCHEMA_VERSION, Metadata
from storage.neurons import MOMENT_DIMS, QUANTITIES, neuron_arrays
from storage.reductions import TABLE, array_dims, axis_sizes, subset_name
from storage.results import INDEX_COLUMNS, unknown_allowed
from tests.storage import stores

LAW = (Path(storage.__file__).parent / "SCHEMA.md").read_text()


def table(heading: str) -> list[list[str]]:
    section = LAW.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_version_and_part_size():
    assert LAW.startswith(f"# The store, schema version {SCHEMA_VERSION}\n")
    assert f"Parts `part-000000.parquet`, … of {ROWS_PER_IMAGE_PART:,} rows" in LAW


def test_arrays():
    meta = stores.metadata(store_dtype="float16", varying_bias=True, components=COMPONENTS)
    for heading, specs in (
        ("contributions.zarr", contribution_arrays(meta)),
        ("model.zarr", model_arrays(meta)),
    ):
        law = {name: (axes, dtype) for name, axes, dtype, _ in table(heading)}
        code = {
            s.name: (", ".join(s.dims), "store dtype" if s.dtype == "float16" else s.dtype)
            for s in specs
        }
        assert law == code


def test_neuron_arrays():
    specs = neuron_arrays(stores.metadata(), 0, dict.fromkeys(QUANTITIES, "float16"))
    law = {name: (axes, dtype) for name, axes, dtype, _ in table("contributions.zarr/neurons/")}
    assert law == {s.name: (", ".join(s.dims), "neuron dtype") for s in specs.values()}


def test_neuron_moments():
    law = {name: axes for name, axes, _ in table("neurons.zarr")}
    assert law == {name: ", ".join(axes) or "scalar" for name, axes in MOMENT_DIMS.items()}


def test_the_index():
    meta = stores.metadata()
    law = {name: (axes, dtype) for name, axes, dtype, _ in table("index.zarr")}
    specs = [index_array(meta, part) for part in (head_part(1, 0), block_part(2), EMBEDDING)]
    names = ("heads/LAYER.HEAD", "blocks/BLOCK", "embedding")
    assert law == {n: (", ".join(s.dims), s.dtype) for n, s in zip(names, specs, strict=True)}
    said = LAW.split("\n## index.zarr\n")[1].split("\n## ")[0]
    assert {f.name for f in fields(PartFacts)} <= set(re.findall(r"`(\w+)`", said))
    assert f"{ROWS_PER_INDEX_CHUNK:,} rows" in said


def test_lists_of_approximate_searches():
    assert {name for name, _ in table("approximate/")} == {f.name for f in fields(Facts)}


def test_reductions():
    law = {name: axes for name, axes, _ in table("reductions.zarr")}
    code = {
        name: ", ".join(dims) or "scalar" for r in TABLE for name, dims in array_dims(r).items()
    }
    assert law == code
    assert {d for r in TABLE for dims in array_dims(r).values() for d in dims} <= set(
        axis_sizes(stores.metadata())
    )


def test_the_group_of_a_subset():
    said = LAW.replace("\n", " ")
    ((shape, where, digest),) = re.findall(
        r"the JSON object `(.+?)`, in ASCII .+?: of `(.+?)` it is `(\w+)`", said
    )
    text = shape.replace("…", where.replace("é", r"\u00e9"))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest
    assert subset_name(where) == digest
    assert subset_name(None) == "all"


RESULTS = {"index": INDEX_COLUMNS} | {
    f"{job}/{name}": schema
    for job, tables in {
        "encode_texts": {"texts": TEXTS},
        "textspan": DESCRIPTIONS,
        "ablate": ABLATIONS | EFFECTS,
        "compare": TWO_SETS,
        "align": ALIGNED,
        "second_order": NEURONS,
        "omp": CODES,
        "concepts": {**CONCEPTS, **OVER},
        "heatmap": HEATMAPS,
        "search": SEARCH,
        "label": LABELS,
        "rosetta": SHARED,
        "rosetta_truth": TRUTH,
        "invert": INVERSIONS,
        "segment": SEGMENTATION,
        "repair": REPAIRS,
        "adversarial_cues": CUES,
        "indirect": INDIRECT,
        "adversarial_descriptions": DESCRIBED,
        "adversarial_pictures": PICTURES,
        "adversarial": JUDGED,
    }.items()
    for name, schema in tables.items()
}


def test_result_tables():
    law = [(name, column, kind) for name, column, kind, _ in table("results/")]
    code = [(n, f.name, str(f.type)) for n, schema in RESULTS.items() for f in schema]
    assert sorted(law) == sorted(code)


def test_figures_that_may_be_unknown_are_said():
    said = [(name, column) for name, column, _, what in table("results/") if "unknown" in what]
    code = [(n, f.name) for n, schema in RESULTS.items() for f in schema if unknown_allowed(f)]
    assert sorted(said) == sorted(code)


def test_every_axis_is_explained():
    axes = {row[0] for row in table("Axes")}
    meta = stores.metadata(components=COMPONENTS)
    kept = neuron_arrays(meta, 0, dict.fromkeys(QUANTITIES, "float16")).values()
    specs = [*contribution_arrays(meta), *kept, index_array(meta, EMBEDDING)]
    assert axes == {d for s in specs for d in s.dims}


def test_ledger_and_metadata():
    names = {pa.int64(): "int64", pa.bool_(): "bool", pa.string(): "string", pa.int32(): "int32"}
    assert [(r[0], r[1]) for r in table("ledger/")] == [(f.name, names[f.type]) for f in SCHEMA]
    assert {row[0] for row in table("Metadata")} == {f.name for f in fields(Metadata)}
    said = re.search(r"all fields but (.*?) agree", LAW.replace("\n", " "))
    assert said
    assert set(re.findall(r"`(\w+)`", said[1])) == set(PROVENANCE)


def test_chunks_divide_the_shard_and_stay_small():
    for shard, size in ((1024, 2048), (1000, 3), (7, 10**9), (4096, 302_592)):
        chunk = images_per_chunk(shard, size)
        assert shard % chunk == 0
        assert chunk == 1 or chunk * size <= 2**20


def test_bytes_of_a_large_model_stay_under_the_bar():
    large = stores.metadata(
        store_dtype="float16", components=("heads", "mlps"),
        layers=24, heads=16, head_dim=64, width=1024, embed=768, tokens=257, grid=(16, 16),
    )  # fmt: skip
    per_image = sum(s.bytes_per_row for s in contribution_arrays(large))
    assert per_image <= 105_000
