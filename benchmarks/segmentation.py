"""Heat maps beside a plain forward pass and beside the published way of making them.

``OMP_NUM_THREADS=2 python -m benchmarks.segmentation maps`` times every method in turn on the same
images and threads; what counts is the median over rounds of the ratio to plain within the round.
``python -m benchmarks.segmentation job`` times the whole job, pictures, masks and scores included,
in the processor's seconds, which other work does not stretch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn.functional import layer_norm, normalize

from benchmarks import clock
from jobs import extract, segment
from pipeline.heatmaps.asked import Asked, MapMaker
from pipeline.heatmaps.choices import METHODS, Method
from pipeline.heatmaps.gradients import GRADIENT_METHODS, GradientMaps
from pipeline.heatmaps.plain import PlainMaps
from pipeline.heatmaps.relevance import RELEVANCE, RelevanceMaps
from pipeline.heatmaps.scores import relevance, score
from pipeline.images.batches import load_batch
from pipeline.models import ModelSpec, VisionModel, load_model


def published(model: VisionModel, images_bchw: Tensor, texts_ce: Tensor) -> Tensor:
    """Maps of every picture's predicted class, (batch, patch), as the published code makes them.

    One picture at a time; what every head writes to every token from every token is written out,
    (token, token, head, width), and then what the class token got, in the joint space, (layer,
    token, head, embed); the map of every class, of which the predicted one less the mean is kept.
    Equal shares of what the last LayerNorm subtracts and adds.
    """
    visual, maps = model.visual, []
    for image_1chw in images_bchw.split(1):
        x_td = model.tower().enter(image_1chw)[0]
        from_tokens = []
        for block in visual.transformer.resblocks:
            attention = block.attn
            qkv_htk = torch.addmm(
                attention.in_proj_bias, block.ln_1(x_td), attention.in_proj_weight.T
            ).unflatten(1, (3, model.heads, -1)).permute(1, 2, 0, 3)  # fmt: skip
            queries, keys, values = qkv_htk
            alpha_hqt = (queries @ keys.mT * model.head_dim**-0.5).softmax(-1)
            out_dhk = attention.out_proj.weight.unflatten(1, (model.heads, -1))
            mixed_qthk = torch.einsum("hqt,htk->qthk", alpha_hqt, values)
            written_qthd = torch.einsum("qthk,dhk->qthd", mixed_qthk, out_dhk)
            share_d = attention.out_proj.bias / (model.tokens * model.heads)
            from_tokens.append(written_qthd[0] + share_d)
            x_td = x_td + written_qthd.sum((1, 2)) + attention.out_proj.bias
            x_td = x_td + block.mlp(block.ln_2(x_td))
        norm, class_d = visual.ln_post, x_td[0]
        embedding_e = layer_norm(class_d, class_d.shape, norm.weight, norm.bias, norm.eps)
        embedding_e = embedding_e @ visual.proj
        std = (class_d.var(correction=0) + norm.eps).sqrt()
        layers_lthd = torch.stack(from_tokens)
        parts = (2 * model.layers + 1) * model.tokens * model.heads
        centred_lthd = norm.weight * (layers_lthd - class_d.mean() / parts) / std
        embed_lthe = (centred_lthd + norm.bias / parts) @ visual.proj / embedding_e.norm()
        by_class_tc = embed_lthe[:, model.prefix :].sum((0, 2)) @ texts_ce.T
        chosen = int((texts_ce @ embedding_e).argmax())
        maps.append(by_class_tc[:, chosen] - by_class_tc.mean(1))
    return torch.stack(maps)


@dataclass(frozen=True)
class Config:
    """What to measure."""

    model: str = "ViT-B-16"
    """An open_clip name; the weights are random."""
    batch: int = 8
    """Images a batch."""
    rounds: int = 5
    """Rounds; each way runs one batch a round."""
    classes: int = 1000
    """Classes, of random texts."""
    singly: int = 1
    """Pictures a round that the published way is timed on; 0 leaves it out."""
    device: str = "cpu"
    """Where to run."""
    dtype: str = "float32"
    """In which matrix products run; plain open_clip is converted to it as a whole."""
    threads: int = 2
    """CPU threads."""


def maps(config: Config) -> None:
    """Print a Markdown table, a row a method."""
    torch.set_num_threads(config.threads)
    dtype = getattr(torch, config.dtype)
    model = load_model(ModelSpec(config.model, "none"), config.device, dtype)
    plain = deepcopy(model.module).to(dtype)
    images = torch.randn(config.batch, 3, *model.preprocess.size, device=config.device)
    texts_ce = normalize(torch.randn(config.classes, model.embed_dim, **model.wide))
    masks = torch.randint(0, 2, (config.batch, *model.preprocess.size), device=config.device)
    asked = Asked(
        torch.arange(config.batch, device=config.device) % config.classes,
        texts_ce,
        torch.arange(config.batch),
    )
    heads = [(layer, head) for layer in range(model.layers) for head in range(model.heads)]
    directions = {
        layer: np.random.default_rng(layer).standard_normal((model.mlp_width, model.embed_dim))
        for layer in range(model.layers - 4, model.layers - 1)
    }

    def scored(maps_bhw: Tensor) -> object:
        return score(relevance(maps_bhw, model.preprocess.size, True), masks.to(torch.uint8), None)

    tokens = PlainMaps(model, ["tokens"], {"all": heads}, None, "equal-share")
    ways: dict[str, Callable[[], object]] = {
        "plain encode_image": torch.inference_mode()(lambda: plain.encode_image(images.to(dtype))),
        "tokens": lambda: tokens(images, asked),
        "tokens, and their scores": lambda: scored(tokens(images, asked)["tokens all"]),
    }
    for name in METHODS:
        if name in ("neurons", "raw-attention", "rollout"):
            maker: MapMaker = PlainMaps(model, [name], None, directions)
        elif name in GRADIENT_METHODS:
            maker = GradientMaps(model, [name])
        elif name in RELEVANCE:
            maker = RelevanceMaps(model, [name])
        else:
            continue
        ways[name] = lambda maker=maker: maker(images, asked)  # type: ignore[misc]
    if config.singly:
        ways["tokens, the published way"] = torch.inference_mode()(
            lambda: published(model, images[: config.singly], texts_ce)
        )
    print(
        f"{config.model}, {config.device}, {config.dtype}, {config.threads} threads, batches of "
        f"{config.batch}, medians of {config.rounds}\n"
    )
    print("| method | s a picture | time / plain |\n|---|---|---|")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(-1, config.rounds):  # round -1 warms up
        for name, way in ways.items():
            taken = clock.seconds(way) / (config.singly if "published" in name else config.batch)
            if round_ >= 0:
                seconds[name].append(taken)
    by_plain = seconds["plain encode_image"]
    for name, taken_s in seconds.items():
        ratio = median(t / p for t, p in zip(taken_s, by_plain, strict=True))
        print(f"| {name} | {median(taken_s):.4f} | {ratio:.3f} |")
    if config.singly:
        theirs_bp = published(model, images[: config.singly], texts_ce)
        chosen_b = (plain.float().encode_image(images[: config.singly]) @ texts_ce.T).argmax(1)
        asked = replace(asked, classes_b=chosen_b)
        ours_bp = tokens(images[: config.singly], asked)["tokens all"].flatten(1)
        off = float((ours_bp - theirs_bp).abs().max() / theirs_bp.abs().max())
        print(f"\nLargest difference from the published way, of its largest value: {off:.1e}")


def job(
    model: str = "ViT-B-16",
    images: tuple[int, int] = (32, 128),
    batch_size: int = 16,
    methods: tuple[Method, ...] = ("tokens",),
    threads: int = 2,
) -> None:
    """The job over two numbers of pictures, so that starting cancels, beside a plain pass."""
    few, many = images
    with tempfile.TemporaryDirectory() as folder:
        store = extract.main(
            extract.ExtractConfig(
                images=f"microworld:n={many},seed=1,split=test", model=model, pretrained="none",
                store=f"{folder}/store", components=("mlps",), batch_size=batch_size,
                shard_size=many, workers="here",
            )
        )  # fmt: skip
        taken = []
        for count in (few, few, many):  # the first reads weights and embeds texts
            started = time.process_time()
            segment.main(
                segment.SegmentConfig(
                    f"{folder}/store", classes="microworld:shape", methods=methods,
                    layers=("all",), where=f"index < {count}", batch_size=batch_size,
                    out=f"{folder}/view-{len(taken)}", workers="here",
                )
            )  # fmt: skip
            taken.append(time.process_time() - started)
        torch.set_num_threads(threads)
        plain = load_model(ModelSpec(model, "none"))
        pixels = load_batch(store.url, 0, batch_size, plain.preprocess.resize).loaded.pixels
        pictures = plain.preprocess.to_tensor(torch.from_numpy(pixels))
        encode = torch.inference_mode()(lambda: plain.module.encode_image(pictures))
        passes = [clock.seconds(encode) / batch_size for _ in range(6)][1:]
    whole = (taken[2] - taken[1]) / (many - few)
    print(f"\n{model}, {', '.join(methods)}, {many - few} pictures, batches of {batch_size}\n")
    print("| what | CPU s a picture | ratio |\n|---|---|---|")
    print(f"| plain encode_image | {median(passes):.4f} | 1 |")
    print(f"| decode, masks, maps, scores | {whole:.4f} | {median(passes) / whole:.2f} |")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"maps": maps, "job": job})
