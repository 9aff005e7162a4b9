"""Second-order coefficients beside a plain forward, and directions of a layer's neurons.

``OMP_NUM_THREADS=1 python -m benchmarks.second_order speed``. The ways are timed in turn on the
same images and threads; what counts is the median over rounds of the ratio to plain within the
round. Seconds are the processor's (a GPU's, the wall's), which other work does not stretch.
``python -m benchmarks.second_order memory`` runs the job and watches its actor.
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from statistics import median

import torch
import tyro

from benchmarks import clock
from benchmarks.extract_job import PeakMemory
from jobs import extract, second_order
from jobs.recipes import second_order as recipe
from pipeline.models import ModelSpec, VisionModel, load_model
from pipeline.neurons.choices import Keep
from pipeline.neurons.directions import directions_of, top_chunk, top_combine
from pipeline.neurons.forward import NeuronPass
from pipeline.neurons.maps import published_scale, second_order_maps
from pipeline.neurons.plan import NeuronProjection
from storage.store import Store


@dataclass(frozen=True)
class Config:
    """What to measure; the bars are ≤ 1.1 and below 5 s."""

    model: str = "ViT-B-32"
    """An open_clip name; the weights are random."""
    mlp_layer: int = 9
    """The layer whose neurons are meant."""
    batch: int = 16
    """Images a batch."""
    rounds: int = 7
    """Rounds; each way runs one batch a round."""
    images: int = 500
    """Images that directions are found from, their coefficients made up; 0 leaves them out."""
    top_k: int = 100
    """Images of largest norm that a component is taken from."""
    chunk: int = 64
    """Images whose norms are computed together."""
    device: str = "cpu"
    """Where to run."""
    dtype: str = "float32"
    """In which matrix products run; plain open_clip is converted to it as a whole."""
    threads: int = 1
    """CPU threads."""


def speed(config: Config) -> None:
    """Print two Markdown tables."""
    torch.set_num_threads(config.threads)
    dtype = getattr(torch, config.dtype)
    model = load_model(ModelSpec(config.model, "none"), config.device, dtype)
    plain = deepcopy(model.module).to(dtype)
    images = torch.randn(config.batch, 3, *model.preprocess.size, device=config.device)
    every = tuple(range(model.layers - 1))
    ways: dict[str, Callable[[torch.Tensor], object]] = {
        "plain encode_image": torch.inference_mode()(lambda x: plain.encode_image(x.to(dtype))),
        f"coefficients, layer {config.mlp_layer}": NeuronPass(model, [config.mlp_layer]),
        f"totals, layer {config.mlp_layer}": NeuronPass(model, [config.mlp_layer], ("totals",)),
        "totals, all layers": NeuronPass(model, every, ("totals",)),
    }
    print(
        f"{config.model}, {config.device}, {config.dtype}, {config.threads} thread(s), batch "
        f"{config.batch}, medians of {config.rounds}\n"
    )
    print("| pass | s an image | time / plain |\n|---|---|---|")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(-1, config.rounds):  # round -1 warms up
        for name, way in ways.items():
            elapsed = clock.seconds(lambda way=way: way(images))  # type: ignore[misc]
            if round_ >= 0:
                seconds[name].append(elapsed)
    by_plain = seconds["plain encode_image"]
    for name, taken in seconds.items():
        ratio = median(t / p for t, p in zip(taken, by_plain, strict=True))
        print(f"| {name} | {median(taken) / config.batch:.4f} | {ratio:.3f} |")
    if config.images:
        print("\n| directions | s |\n|---|---|")
        for name, taken_s in component_seconds(config, model).items():
            print(f"| {name} | {taken_s:.2f} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nPeak memory of this process: {peak:.2f} GB")
    if images.is_cuda:
        print(f"Peak memory of the GPU: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")


def component_seconds(config: Config, model: VisionModel) -> dict[str, float]:
    """Seconds of each step from stored coefficients to r_n."""
    taken: dict[str, float] = {}
    started = clock.now()

    def lap(name: str) -> None:
        nonlocal started
        taken[name], started = clock.now() - started, clock.now()

    maps = second_order_maps(model, config.mlp_layer)
    lap("maps and Gram matrices of the weights (once a model)")
    paths, neurons, _ = maps.values_pnk.shape
    s = torch.randn(config.images, paths, neurons, device=config.device).half()
    std = torch.rand(config.images, device=config.device) + 1
    embedding = torch.randn(config.images, model.embed_dim, device=config.device)
    started = clock.now()
    mean = torch.zeros(paths, neurons, device=config.device)
    parts = torch.arange(config.images, device=config.device).split(config.chunk)
    for part in parts:
        mean += published_scale(s[part].float(), std[part], embedding[part]).sum(0) / config.images
    lap("mean")
    states = []
    for part in parts:
        deviations = published_scale(s[part].float(), std[part], embedding[part]) - mean
        states.append(top_chunk(maps.norms(deviations), deviations, part, config.top_k))
        states = [top_combine(states)]
    lap(f"norms and top {config.top_k}")
    directions_of(states[0], maps)
    lap("directions")
    label = f"**all of {neurons} neurons, {config.images} images**"
    return {**taken, label: sum(list(taken.values())[1:])}


def memory(
    model: str = "ViT-L-14",
    mlp_layers: str = "20",
    images: int = 64,
    shard_size: int = 32,
    batch_size: int = 16,
    keep: Keep = "coefficients",
) -> None:
    """Peak private memory of the job's actor, and what the job projected for it."""
    with tempfile.TemporaryDirectory() as folder:
        extract.main(
            extract.ExtractConfig(
                images=f"microworld:n={images},seed=1,split=test", model=model, pretrained="none",
                store=f"{folder}/store", shard_size=shard_size, batch_size=batch_size,
                components=("mlps",), num_actors=1,
            )
        )  # fmt: skip
        projected: list[int] = []
        check = recipe.refuse_bytes

        def noted(store: Store, projection: NeuronProjection) -> None:
            projected.append(projection.worker)
            check(store, projection)

        recipe.refuse_bytes = noted
        try:
            with PeakMemory() as peak:
                second_order.main(
                    second_order.SecondOrderConfig(
                        f"{folder}/store", mlp_layers=mlp_layers, keep=keep, top_k=10,
                        batch_size=batch_size, num_actors=1,
                    )
                )  # fmt: skip
        finally:
            recipe.refuse_bytes = check
    print(f"\n{model}, MLP layers {mlp_layers}, {images} images, batches of {batch_size}\n")
    print("| keep | actor's peak, MB | projected, MB |\n|---|---|---|")
    print(f"| {keep} | {peak.bytes / 1e6:.0f} | {projected[0] / 1e6:.0f} |")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"speed": speed, "memory": memory})
