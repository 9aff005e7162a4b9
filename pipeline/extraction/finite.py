"""Where a pass of the image tower first gives NaN or infinite numbers, and what helps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.models import VisionModel
from storage.errors import NotFinite

PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16"}
REMEDIES = {torch.bfloat16: "fp32", torch.float16: "bf16 or fp32"}


def finite_rows(values: Tensor) -> Tensor:
    """Rows without NaN and infinite numbers, (B,) bool."""
    return values.isfinite().flatten(1).all(1) if values.ndim > 1 else values.isfinite()


def refuse_pass(
    model: VisionModel, what: str, images_bchw: Tensor, images_b: Tensor, finite_b: Tensor
) -> None:
    """Refuse images whose pass gave a number that is not finite; say where it began.

    Parameters
    ----------
    model : VisionModel
    what : str
        What is not finite, for the message.
    images_bchw : (B, 3, height, width) Tensor
        As the model takes them.
    images_b : (B,) Tensor
        Their numbers.
    finite_b : (B,) bool Tensor

    Raises
    ------
    NotFinite
        If any is not.
    """
    if finite_b.all():
        return
    lost = ~finite_b.cpu()
    numbers = images_b.cpu()[lost]
    some = ", ".join(map(str, numbers[:5].tolist())) + (", …" if len(numbers) > 5 else "")
    raise NotFinite(
        f"{what}: not finite for {len(numbers)} of {len(lost)} images in a batch ({some}): "
        + _diagnosis(model, images_bchw[lost.to(images_bchw.device)][:1])
    )


def _diagnosis(model: VisionModel, images_bchw: Tensor) -> str:
    """What is known of one image's pass, in words."""
    place = first_place(model, images_bchw)
    if model.dtype in PRECISIONS:
        wide = first_place(replace(model, dtype=torch.float32), images_bchw)
        if wide is None:
            begins = f"it begins in {place}, and " if place else ""
            return (
                f"{begins}the precision is too narrow: these weights are not finite in "
                f"{PRECISIONS[model.dtype]} and are in fp32. Use `precision` "
                f"{REMEDIES[model.dtype]}, in a new store"
            )
        place = wide
    where = f"it begins in {place}" if place else "the pass is finite, and what follows from it not"
    return f"{where}, in fp32 too: these weights are finite and their numbers are not. Give others"


@torch.inference_mode()
def first_place(model: VisionModel, images_bchw: Tensor) -> str | None:
    """Name of the first step whose numbers are not finite; None if all are."""
    for place, values in _steps(model, images_bchw):
        if not values.isfinite().all():
            return place
    return None


def _steps(model: VisionModel, images_bchw: Tensor) -> Iterator[tuple[str, Tensor]]:
    tower = model.tower()
    x_btd = tower.enter(images_bchw)
    yield "the embedding of patches, before layer 0", x_btd
    for layer, block in enumerate(tower.blocks):
        attention = block.attention(x_btd)
        for name in ("queries", "keys", "values"):
            yield f"the {name} of attention layer {layer}", getattr(attention, name)
        x_btd, u_bd = block.attend(x_btd, attention)
        yield f"the heads of attention layer {layer}", u_bd
        yield f"the output of attention layer {layer}", x_btd
        hidden_btn, written_btd = block.mlp(x_btd)
        yield f"the neurons of MLP layer {layer}", hidden_btn
        yield f"the output of MLP layer {layer}", written_btd
        x_btd = x_btd.add_(written_btd)
        yield f"the residual stream after layer {layer}", x_btd
    left = tower.leave(x_btd)
    yield "the last LayerNorm", left.std_b
    yield "the projection to the joint space", left.embedding_be
    yield "the division by the embedding's length, which is zero", 1 / left.embedding_be.norm(dim=1)
