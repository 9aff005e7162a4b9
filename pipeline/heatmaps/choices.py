"""The methods of heat maps and the protocols of segmentation, by name; light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Method = Literal[
    "tokens",
    "neurons",
    "raw-attention",
    "rollout",
    "gradcam",
    "lrp",
    "partial-lrp",
    "transformer-attribution",
    "gradient-attention",
    "legrad",
    "random",
]
Protocol = Literal["aligned", "published"]


@dataclass(frozen=True)
class MethodFacts:
    """What has to be known of a method before it is run.

    Attributes
    ----------
    gradients : bool
        Whether the model is run backwards, too.
    clipped : bool
        Whether what is negative counts as nothing.
    threshold : float or None
        From which relevance, 0 … 1, a pixel is foreground; None: from the picture's own mean.
    """

    gradients: bool = False
    clipped: bool = False
    threshold: float | None = None


METHODS: dict[Method, MethodFacts] = {
    "tokens": MethodFacts(clipped=True),
    "neurons": MethodFacts(threshold=0.5),
    "raw-attention": MethodFacts(),
    "rollout": MethodFacts(),
    "gradcam": MethodFacts(gradients=True),
    "lrp": MethodFacts(gradients=True),
    "partial-lrp": MethodFacts(gradients=True),
    "transformer-attribution": MethodFacts(gradients=True),
    "gradient-attention": MethodFacts(gradients=True),
    "legrad": MethodFacts(gradients=True),
    "random": MethodFacts(),
}
