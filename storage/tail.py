"""The terms whose sum is an image's embedding, and the one division that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Term:
    """One term: values · map, summed over `axes`, divided by the image's `scale`.

    Attributes
    ----------
    values : str
        Array of ``contributions.zarr``, which may have further axes before these, to be summed
        over; empty where it is 1 for every image.
    map : str
        Array of ``model.zarr``: (*axes, embed).
    axes : tuple of str
    scale : str
        Array of ``contributions.zarr``; empty where nothing is divided by.
    """

    values: str
    map: str
    axes: tuple[str, ...]
    scale: str = "ln_std"


TAIL = (
    Term("heads", "head_map", ("layer", "head", "head_dim")),
    Term("mlps", "mlp_map", ("width",)),
    Term("", "attention_bias", ("layer",)),
    Term("bias_weights", "bias_map", ("layer",)),
    Term("", "bias", (), ""),
)


def terms(heads: int, varying_bias: bool) -> tuple[Term, ...]:
    """Those of `TAIL` that a model has.

    Parameters
    ----------
    heads : int
        Of a layer; 0 in a model without attention.
    varying_bias : bool
        Whether what the attention's biases write is another multiple for every image and layer.
    """
    absent = {"bias_weights"} if not varying_bias else set()
    absent |= {"heads"} if not heads else set()
    return tuple(term for term in TAIL if term.values not in absent)


def scaled(sums: Any, ln_std_b: Any) -> Any:
    """Each image's rows divided by its scale.

    Parameters
    ----------
    sums : (B, …) ndarray or Tensor
        Of one image or a batch; an axis of length 1 is the same for all.
    ln_std_b : (B,) ndarray or Tensor
    """
    return sums / ln_std_b.reshape(-1, *(1,) * (sums.ndim - 1))
