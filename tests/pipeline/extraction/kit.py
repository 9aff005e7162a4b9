"""Stores of real models over real pictures, shard after shard in this process."""

from pathlib import Path

from pipeline.extraction.extractor import Extractor
from pipeline.images.batches import load_batch
from pipeline.images.listing import list_images
from pipeline.images.rows import ListingReport
from pipeline.models import VisionModel, model_maps
from storage.images import ListDigest, write_images
from storage.layout import model_arrays
from storage.metadata import Metadata
from storage.store import Store, create_store


def new_store(url: Path, source: str, model: VisionModel, shard_size: int, **changes) -> Store:
    digest = ListDigest()
    write_images(str(url), digest.through(list_images(source, report=ListingReport())))
    fields = dict(
        architecture="tiny", architecture_digest="", weights="none:0",
        weights_digest=model.weights_digest, activation=model.activation, preprocessing={},
        precision="fp32", store_dtype="float16", components=("heads", "mlps", "tokens"),
        token_layers=(1, 2), image_list_digest=digest.hexdigest(), images=digest.rows,
        shard_size=shard_size, layers=model.layers, heads=model.heads, head_dim=model.head_dim,
        width=model.width, mlp_width=model.mlp_width, embed=model.embed_dim, tokens=model.tokens,
        grid=model.grid, prefix=model.prefix,
    )  # fmt: skip
    meta = Metadata(**{**fields, **changes})
    maps = {s.name: getattr(model_maps(model), s.name) for s in model_arrays(meta)}
    return create_store(str(url), meta, maps)


def extract_all(store: Store, model: VisionModel, batch_size: int = 4) -> list:
    extractor = Extractor(store.url, model, "cpu", threads=1)
    reports = []
    for shard in range(store.meta.shards):
        start, stop = store.meta.rows(shard)
        batches = (
            load_batch(store.url, at, min(at + batch_size, stop), model.preprocess.resize)
            for at in range(start, stop, batch_size)
        )
        reports.append(extractor.do(shard, batches))
    return reports
