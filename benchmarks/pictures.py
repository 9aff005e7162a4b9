"""Every way from files to pixels: how fast it is, and what it changes.

python -m benchmarks.pictures speed --photos ../shared/data/imagenet_sample
python -m benchmarks.pictures parts
python -m benchmarks.pictures changes

A round goes once over all photographs in every way, one after the other; what counts is the median
over rounds of the ratio to the first within the round. With a GPU ``gpu`` is measured, too.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import pyarrow as pa
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.extraction.decompose import Decomposer
from pipeline.images import card
from pipeline.images.decode import decode, read_bytes
from pipeline.images.decoding import Decode
from pipeline.images.listing import list_images
from pipeline.images.load import LoadedImages, load_rows
from pipeline.images.resize import Resize
from pipeline.images.samples import refuse_unclear
from pipeline.models import ModelSpec, load_model

PHOTOS = Path("../shared/data/imagenet_sample")
SIZE = (224, 224)
BEFORE = "exact, as Pillow's users write it"


def seen_by(way: Decode) -> Resize:
    """What most models of OpenCLIP ask for."""
    return Resize(*SIZE, "bicubic", "shortest", 0, 1.0, way)


def before(rows: pa.Table) -> NDArray[np.uint8]:
    """The exact pixels, by calls that each copy the picture: what ``exact`` did at first."""
    resize, pixels = seen_by("exact"), np.zeros((len(rows), *SIZE, 3), np.uint8)
    for i, row in enumerate(rows.to_pylist()):
        data = read_bytes(row)
        hashlib.sha256(data).hexdigest()
        image = Image.open(io.BytesIO(data))
        refuse_unclear(image, data)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        image = image.convert("RGB")
        small = image.resize(resize.size_of(*image.size), Image.Resampling.BICUBIC)
        left, top = (round((n - 224) / 2) for n in small.size)
        pixels[i] = np.asarray(small.crop((left, top, left + 224, top + 224)).convert("RGB"))
    return pixels


def load(way: Decode, rows: pa.Table) -> LoadedImages:
    """What a decoding task does."""
    torch.set_num_threads(1)
    resize = seen_by(way)
    return load_rows(rows, resize, SIZE, resize.on_card)


def seconds(of: Callable[[pa.Table], object], rows: pa.Table) -> float:
    """What a run of pictures takes of a processor, whatever else it has to do."""
    start = time.process_time()
    of(rows)
    return time.process_time() - start


def ways() -> dict[str, Callable[[pa.Table], object]]:
    return {
        BEFORE: before,
        "exact": partial(load, "exact"),
        "fast": partial(load, "fast"),
        "gpu, reading alone": partial(load, "gpu"),
    }


def listed(photos: Path) -> pa.Table:
    return pa.concat_tables(list_images(str(photos)))


def speed(photos: Path = PHOTOS, rounds: int = 5, times: int = 1) -> None:
    """Images in a processor's second, of one process and of one a core; files ``times`` over."""
    rows = pa.concat_tables([listed(photos)] * times)
    cores = psutil.cpu_count(logical=False) or 1
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        for processes, over in ((1, map), (cores, pool.map)):
            parts = [rows.slice(at, 31) for at in range(0, len(rows), 31)]
            rates = defaultdict(list)
            for number in range(rounds + 1):
                for name, of in ways().items():
                    taken = sum(over(partial(seconds, of), parts)) / processes
                    if number:  # the first only warms up
                        rates[name].append(len(rows) / taken)
            table(f"{processes} processes at once, {len(rows)} JPEGs", rates)
    if torch.cuda.is_available():
        on_card(rows, rounds)


def on_card(rows: pa.Table, rounds: int) -> None:
    """JPEGs that were read, decoded and resized on the card."""
    read = [load("gpu", rows.slice(at, 256)) for at in range(0, len(rows), 256)]
    rates = defaultdict(list)
    for number in range(rounds + 1):
        start = time.perf_counter()
        for loaded in read:
            card.on_device(loaded, "cuda")
        torch.cuda.synchronize()
        if number:
            rates["gpu, decoding and resizing alone"].append(
                len(rows) / (time.perf_counter() - start)
            )
    table(f"{torch.cuda.get_device_name()}, batches of up to 256", rates)


def table(title: str, rates: dict[str, list[float]]) -> None:
    first = next(iter(rates.values()))
    print(f"\n{title}\n\n| way | images/s | ratio |\n|---|---|---|")
    for name, found in rates.items():
        ratio = median(a / b for a, b in zip(found, first, strict=True))
        print(f"| {name} | {median(found):.0f} | {ratio:.2f} |")


def parts(photos: Path = PHOTOS, rounds: int = 7) -> None:
    """Where a core's time goes, in milliseconds a picture, of the exact way and of fast; the least
    of several rounds, in the processor's own seconds."""
    from pipeline.images import fast

    torch.set_num_threads(1)
    files = [read_bytes(row) for row in listed(photos).to_pylist()]
    resize = seen_by("exact")
    pictures = [decode(data) for data in files]
    sizes = [resize.size_of(*picture.size) for picture in pictures]
    small = [
        p.resize(size, Image.Resampling.BICUBIC) for p, size in zip(pictures, sizes, strict=True)
    ]
    steps: dict[str, Callable[[int], object]] = {
        "sha256": lambda i: hashlib.sha256(files[i]).hexdigest(),
        "header": lambda i: Image.open(io.BytesIO(files[i])),
        "header and decoding, as Pillow does": lambda i: Image.open(io.BytesIO(files[i])).load(),
        "header and decoding, as exact and fast do": lambda i: decode(files[i]),
        "a copy (convert)": lambda i: pictures[i].copy(),
        "resizing by Pillow (exact)": lambda i: pictures[i].resize(
            sizes[i], Image.Resampling.BICUBIC
        ),
        "resizing by torch (fast)": lambda i: fast.resized(pictures[i], sizes[i], "bicubic"),
        "cut, and into the batch": lambda i: resize._crop_or_pad(
            np.asarray(small[i]), (0, 0, 0)
        ).copy(),
    }
    print(f"\n{len(files)} JPEGs of {sum(map(len, files)) / len(files) / 1000:.0f} kB on average\n")
    taken = defaultdict(list)
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.thread_time()
            for i in range(len(files)):
                step(i)
            taken[name].append(1000 * (time.thread_time() - start) / len(files))
    print("| step | ms a picture |\n|---|---|")
    for name, found in taken.items():
        print(f"| {name} | {min(found):.2f} |")


def changes(
    photos: Path = PHOTOS, models: tuple[str, ...] = ("ViT-B-32/none", "microworld")
) -> None:
    """Pixels, embeddings and heads beside those of the exact way."""
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    rows, device = listed(photos), "cuda" if torch.cuda.is_available() else "cpu"
    gpu = "gpu" if device == "cuda" else "gpu, but torchvision decodes"
    for name in models:
        model = load_model(ModelSpec.of(name), device)
        decomposer = Decomposer(model)
        found = {}
        for title, way in (("exact", "exact"), ("fast", "fast"), (gpu, "gpu")):
            settings = {**model.preprocess.identity(), "decoding": f"{way}, "}
            resize = Resize.of(settings)
            size = (resize.height, resize.width)
            loaded = card.settled(load_rows(rows, resize, size, resize.on_card), device)
            heads, embeddings = map(torch.cat, zip(*_parts(model, decomposer, loaded), strict=True))
            found[title] = loaded.pixels.astype(int), heads, embeddings
        pixels, heads, embeddings = found.pop("exact")
        print(f"\n{name}, {len(rows)} JPEGs, {model.preprocess.size[0]} pixels a side, {device}\n")
        print(
            "| way | pixels' change of 255, mean | largest | cosine of embeddings, mean | least "
            "| change of heads, mean | largest |\n|---|---|---|---|---|---|---|"
        )
        for title, (others, of_heads, of_embeddings) in found.items():
            away = np.abs(others - pixels)
            cosine = torch.cosine_similarity(embeddings, of_embeddings)
            change = (of_heads - heads).flatten(1).norm(dim=1) / heads.flatten(1).norm(dim=1)
            print(
                f"| {title} | {away.mean():.4f} | {away.max()} | {cosine.mean():.7f} "
                f"| {cosine.min():.7f} | {change.mean():.1e} | {change.max():.1e} |"
            )


def _parts(
    model: object, decomposer: Decomposer, loaded: LoadedImages
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Heads and embeddings, batch by batch."""
    for at in range(0, len(loaded.pixels), 32):
        pixels = torch.from_numpy(loaded.pixels[at : at + 32]).to(model.device)
        made = decomposer(model.preprocess.to_tensor(pixels))
        yield made.heads_blhk.double().cpu(), made.embedding_be.double().cpu()


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"speed": speed, "parts": parts, "changes": changes})
