"""Heat maps from gradients of the class's score with regard to attention patterns.

The score is y = ⟨embedding/‖embedding‖, text of the class⟩. A_l are the patterns of layer l,
(head, query, key), and ∇A_l is ∂y/∂A_l with all that follows from A_l in later layers. The tail
reads the class token, so that in the last layer only its row counts; it is the only one computed.

``gradcam``
    (mean_h w_h A_h)⁺ in the last layer, the class token's row: w_h is the mean of ∂y/∂A_h over
    the patches (Selvaraju et al. 2017; on attention as Chefer et al. 2021 have it).
``gradient-attention``
    The class token's row of (I + Ā_L) ⋯ (I + Ā_1), where Ā_l = mean_h (∇A_l ⊙ A_l)⁺ is cut at
    zero before the mean and rows are not normalised (Chefer et al. 2021).
``legrad``
    Σ_l mean over heads and queries of (∂s_l/∂A_l)⁺ (Bousselham et al. 2024), where s_l is the score
    of the class token behind layer l, attention and MLP, taken through the model's tail: norm,
    projection, and the embedding's length, as y is, so that s_L = y. No gradient of s_l passes
    through layers before l, and all rows of queries but the class token's have none: the mean
    over queries is that row divided by the number of tokens, in every layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.models import UnsupportedModel, VisionModel

from .asked import Asked
from .memory import first_derived
from .traced import Step, score, steps

GRADIENT_METHODS = ("gradcam", "gradient-attention", "legrad")


class GradientMaps:
    """Maps of several methods from one forward and one backward pass: a `MapMaker`.

    Parameters
    ----------
    model
        From `load_model`.
    methods
        Of `GRADIENT_METHODS`.

    Notes
    -----
    ``gradient-attention`` keeps the activations of all layers: see `gradient_bytes`. Without it the
    backward pass ends in the last layer.
    """

    def __init__(self, model: VisionModel, methods: Sequence[str] = GRADIENT_METHODS) -> None:
        if unknown := set(methods) - set(GRADIENT_METHODS):
            raise ValueError(f"methods {sorted(unknown)} are none of {', '.join(GRADIENT_METHODS)}")
        if model.reading != "class-token":
            raise UnsupportedModel(
                f"these gradients are of what arrives at a class token, and {model.name} is read "
                f"by {model.reading}: choose other methods"
            )
        self.model, self.methods = model, tuple(methods)
        self._tower, self._wide = model.tower(), model.wide["dtype"]
        self._first = first_derived(methods, model.layers)

    @torch.enable_grad()
    def __call__(self, images_bchw: Tensor, asked: Asked) -> dict[str, Tensor]:
        """Maps over the patch grid, (batch, rows, columns), by method, as wide as the stream."""
        texts_be = asked.texts_be
        patterns: list[Tensor] = []
        found: dict[str, Tensor] = {}
        for step in steps(self._tower, images_bchw, self._first):
            if "legrad" in self.methods:
                map_bt = self._legrad(step, texts_be)
                found["legrad"] = found["legrad"] + map_bt if "legrad" in found else map_bt
            if step.patterns_bhqt.requires_grad:
                patterns.append(step.patterns_bhqt)
        if patterns:
            y_b = score(self._tower, step.behind_bqd, texts_be)
            slopes = torch.autograd.grad(y_b.sum(), patterns)
            patterns = [pattern.detach() for pattern in patterns]
            if "gradcam" in self.methods:
                found["gradcam"] = self._gradcam(patterns[-1], slopes[-1])
            if "gradient-attention" in self.methods:
                found["gradient-attention"] = self._gradient_attention(patterns, slopes)
        on_grid = {method: found[method][:, self.model.prefix :] for method in self.methods}
        return {method: map_bp.unflatten(1, self.model.grid) for method, map_bp in on_grid.items()}

    def _gradcam(self, patterns_bhqt: Tensor, slopes_bhqt: Tensor) -> Tensor:
        pattern_bht, slope_bht = (x[:, :, 0].to(self._wide) for x in (patterns_bhqt, slopes_bhqt))
        weights_bh1 = slope_bht[:, :, self.model.prefix :].mean(-1, keepdim=True)
        return (weights_bh1 * pattern_bht).mean(1).clamp(min=0)

    def _legrad(self, step: Step, texts_be: Tensor) -> Tensor:
        # Behind the attention nothing passes between tokens, so the class token goes on alone.
        alpha_bh1t = step.patterns_bhqt[:, :, :1].detach().requires_grad_()
        x_b1d = step.x_btd[:, :1].detach()
        between_b1d = step.block.write(x_b1d, alpha_bh1t @ step.attention.values.detach())
        behind_b1d = between_b1d + step.block.mlp(between_b1d)[1]
        s_b = score(self._tower, behind_b1d, texts_be)
        (slopes_bh1t,) = torch.autograd.grad(s_b.sum(), [alpha_bh1t])
        return slopes_bh1t[:, :, 0].to(self._wide).clamp(min=0).mean(1) / self.model.tokens

    def _gradient_attention(self, patterns: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
        row_bt = patterns[0].new_zeros(len(patterns[0]), self.model.tokens, dtype=self._wide)
        row_bt[:, 0] = 1
        for pattern_bhqt, slope_bhqt in zip(reversed(patterns), reversed(slopes), strict=True):
            weights_bqt = (slope_bhqt * pattern_bhqt).clamp_(min=0).mean(1, dtype=self._wide)
            # Queries that are not computed have no gradient, and so no weights.
            row_bt = row_bt + (row_bt[:, None, : weights_bqt.shape[1]] @ weights_bqt)[:, 0]
        return row_bt
