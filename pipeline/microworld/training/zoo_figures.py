"""Figures of the zoo's models on the embedded world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.microworld.world import ATTRIBUTES, CLASSIFIED, PLANTED, Scene
from pipeline.microworld.zoo import (
    Cnn,
    Generator,
    MaskedAutoencoder,
    logits_of,
    sample_latents,
)

SEEN = 24
"""Patches of 64 that the masked autoencoder sees."""


@torch.inference_mode()
def cnn_figures(model: Cnn, images: torch.Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """Accuracy of every classifier, and of shape on pictures of no planted shape.

    Parameters
    ----------
    model : Cnn
    images : (n, 3, 64, 64) float32
        Prepared pictures.
    scenes : sequence of Scene
        Their truth, in the same order.

    Returns
    -------
    dict of str to float
        ``<attribute>`` for those of ``CLASSIFIED``, and ``shape_outside_planted``.
    """
    said = logits_of(torch.cat([model(b) for b in images.split(250)]))
    figures: dict[str, float] = {}
    for name in CLASSIFIED:
        truth = np.array([ATTRIBUTES[name].index(getattr(s, name)) for s in scenes])
        right = said[name].argmax(1).numpy() == truth
        figures[name] = float(right.mean())
        if name == "shape":
            free = np.array([s.shape not in PLANTED for s in scenes])
            figures["shape_outside_planted"] = float(right[free].mean())
    return {name: round(value, 4) for name, value in figures.items()}


def hidden_patches_loss(
    model: MaskedAutoencoder, images: torch.Tensor, masks: torch.Generator
) -> torch.Tensor:
    """Mean squared error (n,) of the patches that a random mask hides, in normalised patches."""
    order = torch.rand(len(images), model.patch_embed.num_patches, generator=masks).argsort(1)
    error = (model.rebuild(images, order[:, :SEEN]).float() - model.patches_of(images)).square()
    return error.mean(-1).gather(1, order[:, SEEN:]).mean(1)


@torch.inference_mode()
def mae_figures(
    model: MaskedAutoencoder, images: torch.Tensor, scenes: Sequence[Scene]
) -> dict[str, float]:
    """Loss on hidden patches, and linear probes of every attribute.

    Parameters
    ----------
    model : MaskedAutoencoder
    images : (n, 3, 64, 64) float32
        Prepared pictures.
    scenes : sequence of Scene
        Their truth, in the same order.

    Returns
    -------
    dict of str to float
        ``hidden_loss`` and ``hidden_loss_of_patch_mean``, what predicting each hidden patch's
        own mean would cost; ``probe_<attribute>``: accuracy of a logistic regression on the
        mean token, fitted on the first half and measured on the second (place: lone objects
        only).
    """
    masks = torch.Generator().manual_seed(0)
    losses = [hidden_patches_loss(model, b, masks) for b in images.split(250)]
    figures = {
        "hidden_loss": float(torch.cat(losses).mean()),
        "hidden_loss_of_patch_mean": float(model.patches_of(images).square().mean()),
    }
    tokens = torch.cat([model(b) for b in images.split(250)]).numpy()
    for name in ATTRIBUTES:
        rows = [i for i, s in enumerate(scenes) if name != "place" or s.count == 1]
        x, y = tokens[rows], np.array([str(getattr(scenes[i], name)) for i in rows])
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        probe.fit(x[: len(x) // 2], y[: len(x) // 2])
        figures[f"probe_{name}"] = float(probe.score(x[len(x) // 2 :], y[len(x) // 2 :]))
    return {name: round(value, 4) for name, value in figures.items()}


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of the Gaussians with the moments of two sets of rows (n, width)."""
    one, other = np.cov(a.T), np.cov(b.T)
    # The trace of the product's root; its eigenvalues are real and positive but for rounding.
    cross = np.sqrt(np.linalg.eigvals(one @ other).real.clip(0)).sum()
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    return float(apart + np.trace(one) + np.trace(other) - 2 * cross)


@torch.inference_mode()
def generator_figures(model: Generator, cnn: Cnn, images: torch.Tensor) -> dict[str, float]:
    """How well pictures are rebuilt, and how much made-up pictures look like real ones.

    Parameters
    ----------
    model : Generator
    cnn : Cnn
        The zoo's, as the judge.
    images : (n, 3, 64, 64) float32
        Prepared pictures; as many are made up, from ``sample_latents(n, seed=0)``.

    Returns
    -------
    dict of str to float
        ``psnr``: decibels of encoded and decoded pictures, all pixels together, and
        ``psnr_of_mean``: of their mean picture; ``rebuilt_<attribute>``: how often the CNN
        says the same of a picture and of its rebuilt self; ``shape_confidence``: mean
        greatest shape probability that the CNN gives made-up pictures, ``…_of_pictures``:
        gives real ones, ``…_of_noise``: gives the real ones' pixels shuffled; ``frechet``:
        distance between the CNN's pooled features of made-up and real pictures,
        ``frechet_of_halves``: between two halves of the real ones, ``frechet_of_noise``: of
        shuffled and real.
    """
    pixels = images.shape[-1] * images.shape[-2]
    places = torch.randperm(pixels, generator=torch.Generator().manual_seed(0))
    latents = sample_latents(len(images), 0, model.latent)
    sets = {
        "_of_pictures": images,
        "": torch.cat([model(z) for z in latents.split(250)]),
        "_of_noise": images.flatten(2)[:, :, places].reshape(images.shape),
        "again": torch.cat([model(model.encode(cnn, b)) for b in images.split(250)]),
    }
    features, said = {}, {}
    for name, pictures in sets.items():
        maps = [cnn.forward_features(b) for b in pictures.split(250)]
        features[name] = torch.cat([m.mean((2, 3)) for m in maps]).double().numpy()
        said[name] = logits_of(torch.cat([cnn.forward_head(m) for m in maps]))
    figures = {
        "psnr": _decibels(sets["again"], images),
        "psnr_of_mean": _decibels(images.mean(0), images),
    }
    for head in CLASSIFIED:
        same = said["again"][head].argmax(1) == said["_of_pictures"][head].argmax(1)
        figures[f"rebuilt_{head}"] = float(same.float().mean())
    real = features["_of_pictures"]
    for name in ("", "_of_pictures", "_of_noise"):
        sure = said[name]["shape"].softmax(1).amax(1)
        figures[f"shape_confidence{name}"] = float(sure.mean())
    figures["frechet"] = frechet(features[""], real)
    figures["frechet_of_halves"] = frechet(real[::2], real[1::2])
    figures["frechet_of_noise"] = frechet(features["_of_noise"], real)
    return {name: round(value, 4) for name, value in figures.items()}


def _decibels(made: torch.Tensor, real: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (made - real).square().mean()))  # the range is -1 … 1
