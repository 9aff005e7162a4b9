"""Zero-shot figures of a CLIP on the embedded world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.lean import open_clip
from pipeline.microworld.captions import class_prompts
from pipeline.microworld.world import ATTRIBUTES, BACKGROUNDS, PLANTED, Scene


@torch.inference_mode()
def class_embeddings(model: open_clip.CLIP, attribute: str) -> tuple[list[str], torch.Tensor]:
    """Values of an attribute and their unit text embeddings (values, embed), prompts averaged."""
    prompts = class_prompts(attribute)
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    rows = [
        F.normalize(model.encode_text(tokenizer(texts), normalize=True).mean(0), dim=0)
        for texts in prompts.values()
    ]
    return list(prompts), torch.stack(rows)


@torch.inference_mode()
def zero_shot_figures(
    model: open_clip.CLIP, images: torch.Tensor, scenes: Sequence[Scene]
) -> dict[str, float]:
    """Zero-shot accuracy of every attribute, and of the planted pair by group.

    Parameters
    ----------
    model : open_clip.CLIP
    images : (n, 3, 64, 64) float32
        Preprocessed pictures.
    scenes : sequence of Scene
        Their truth, in the same order.

    Returns
    -------
    dict of str to float
        ``<attribute>``: accuracy among all its values (place: lone objects only);
        ``shape_outside_planted``: on pictures of no planted shape, among all shapes;
        ``planted_average``, ``planted_worst_group``: the two planted shapes against each
        other, over the groups (shape, background), each group weighing the same;
        ``worst_group``'s name is not returned here, only its accuracy.
    """
    unit = torch.cat([model.encode_image(b, normalize=True) for b in images.split(250)])
    figures: dict[str, float] = {}
    shape = np.array([s.shape for s in scenes])
    for attribute in ATTRIBUTES:
        values, classes = class_embeddings(model, attribute)
        truth = np.array([str(getattr(s, attribute)) for s in scenes])
        right = np.array(values)[(unit @ classes.T).argmax(1).numpy()] == truth
        if attribute == "place":
            right = right[np.array([s.count == 1 for s in scenes])]
        figures[attribute] = float(right.mean())
        if attribute == "shape":
            figures["shape_outside_planted"] = float(right[~np.isin(shape, list(PLANTED))].mean())
            pair = [values.index(s) for s in PLANTED]
            said = np.array(list(PLANTED))[(unit @ classes[pair].T).argmax(1).numpy()]
    background = np.array([s.background for s in scenes])
    groups = [
        (said == shape)[(shape == s) & (background == b)] for s in PLANTED for b in BACKGROUNDS
    ]
    accuracies = [g.mean() for g in groups if len(g)]
    figures["planted_average"] = float(np.mean(accuracies))
    figures["planted_worst_group"] = float(np.min(accuracies))
    return {name: round(value, 4) for name, value in figures.items()}
