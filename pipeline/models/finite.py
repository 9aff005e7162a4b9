"""Weights that hold NaN or infinite numbers, found before a picture is read."""

from __future__ import annotations

from torch import nn

from .errors import ModelError

_NAMED = 5


def refuse_weights(what: str, module: nn.Module) -> None:
    """Refuse a model whose weights are not finite, naming the tensors in the model's own order.

    Buffers may hold infinity, as attention masks do, but no NaN.

    Parameters
    ----------
    what : str
        Where they came from, for the message.
    module : nn.Module

    Raises
    ------
    ModelError
    """
    counts = [(n, int((~t.isfinite()).sum()), t.numel()) for n, t in module.named_parameters()]
    counts += [(n, int(t.isnan().sum()), t.numel()) for n, t in module.named_buffers()]
    faulty = [f"{name} ({bad:,} of {size:,})" for name, bad, size in counts if bad]
    if not faulty:
        return
    more = f" and {len(faulty) - _NAMED} more" if len(faulty) > _NAMED else ""
    raise ModelError(
        f"{what}: {len(faulty)} of {len(counts)} tensors hold NaN or infinite numbers: "
        f"{', '.join(faulty[:_NAMED])}{more}. The training that made them, or the file, has gone "
        "wrong: give other weights, an earlier checkpoint for example"
    )
