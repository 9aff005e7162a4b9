"""Sections of the page: neurons of a layer in words, how true the words are, a few in pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.heads.names import neuron_name
from pipeline.neurons.about import NeuronAnswer
from pipeline.neurons.answers import CodeText, Picked, signed, terms
from pipeline.neurons.coding import FoundCodes

from . import notes, sentences
from .html import Made, Section, anchor, link, section
from .neuron_figure import codes_figure, neuron_figure, truth_figure

# Texts of a code that a title has.
TITLED = 2
LISTED = 10
LEFT = "Left is what the code leaves of the length of a neuron's direction."


def code_of(layer: int, neuron: int) -> str:
    """Where the page has a neuron's code."""
    return f"code-{layer}-{neuron}"


def picture_of(layer: int, neuron: int) -> str:
    """Where the page has a neuron's picture."""
    return f"neuron-{layer}-{neuron}"


def effects_section(
    layer: int,
    neurons: pd.DataFrame,
    images: int,
    drawn: Collection[int],
    warned: Sequence[str],
    made: Made,
) -> Section:
    """What a layer's neurons write through later heads.

    Parameters
    ----------
    neurons : DataFrame
        The second-order job's table, of the layer.
    images : int
    drawn : collection of int
        Neurons whose pictures the page has.
    """
    strongest = neurons.sort_values("norm_large", ascending=False, kind="stable")[:LISTED]
    return section(
        f"What neurons of MLP layer {layer} write through later heads",
        f"The {len(strongest)} neurons whose effect on their top images is longest. Lengths are of "
        "the effect less its mean, where an image's embedding has length 1.",
        name=f"effects-{layer}",
        found=sentences.effects(neurons, images),
        notes=warned,
        header=("neuron", "mean length", "on top images, at least", "one direction holds there, %"),
        rows=[
            (
                linked(layer, int(row["neuron"]), picture_of, drawn),
                f"{row['norm_mean']:.4f}",
                f"{row['norm_large']:.4f}",
                f"{100 * row['explained_top']:.0f}",
            )
            for row in strongest.to_dict("records")
        ],
        made=made,
    )


def linked(
    layer: int, neuron: int, place: Callable[[int, int], str], there: Collection[int]
) -> str:
    """A neuron's name, as a link if it is there."""
    name = neuron_name(layer, neuron)
    return link(name, f"#{place(layer, neuron)}") if neuron in there else name


def codes_section(
    layer: int,
    found: FoundCodes,
    shown: Sequence[int],
    warned: Sequence[str],
    made: Made,
) -> Section:
    """A layer's neurons in words; how well the words fit, and how true they are.

    Parameters
    ----------
    layer : int
    found : FoundCodes
    shown : sequence of int
        Neurons that the table has; the page has their pictures.
    """
    fits = found.fits[found.fits["layer"] == layer]
    last = fits[fits["most"] == fits["most"].max()].set_index("neuron")["residual"]
    truth = found.truths.get(layer)
    if truth is not None and truth.table.empty:
        truth = None
    areas = None if truth is None else truth.table.set_index("neuron")
    rows = []
    for neuron in shown:
        texts = terms(found.codes, layer, neuron)
        cells = [signed(texts[:1]) or "not coded"]
        cells.append(f"{100 * last[neuron]:.0f}" if neuron in last.index else "–")
        if areas is not None:
            known = areas.reindex([neuron]).iloc[0]
            cells += [
                "–" if np.isnan(known[name]) else f"{known[name]:.2f}"
                for name in ("auc", "auc_random")
            ]
        name = link(neuron_name(layer, neuron), f"#{picture_of(layer, neuron)}")
        rows.append((anchor(name, code_of(layer, neuron)), *cells))
    said = (
        "Areas under the ROC curve of each neuron's firing, images that its text is true of "
        "against the others; the text is the one with the largest positive coefficient."
    )
    return section(
        f"Neurons of MLP layer {layer} in words",
        LEFT if truth is None else f"{LEFT} {said}",
        name=f"codes-{layer}",
        found=sentences.joined(
            [sentences.fits(fits), "" if truth is None else sentences.true_texts(truth)]
        ),
        notes=warned,
        plot=() if truth is None else truth_figure(truth),
        header=(
            "neuron",
            "first text of its code",
            "left, %",
            *(() if truth is None else ("AUC", "of random texts")),
        ),
        rows=rows,
        made=made,
    )


def accuracy_section(
    layer: int, accuracy: pd.DataFrame, classes: int, warned: Sequence[str], made: Made
) -> Section:
    """Whether a layer's codes classify as its directions do."""
    baseline = accuracy[(accuracy["study"] == "none") & (accuracy["scope"] == "all")].iloc[0]
    name = f"layer {layer}"
    rows = accuracy[(accuracy["scope"] == "all") & accuracy["series"].str.startswith(name)]
    last = rows[rows["series"] == name].iloc[-1]
    return section(
        f"Accuracy with the codes of MLP layer {layer} in place of its neurons",
        name=f"codes-accuracy-{layer}",
        found=sentences.joined(
            [
                sentences.baseline(baseline, classes),
                f"with codes of {last['at']} texts: {sentences.change(last)}",
            ]
        ),
        notes=[*warned, *notes.chance(baseline, classes)],
        plot=codes_figure(accuracy, layer),
        made=made,
    )


@dataclass(frozen=True, eq=False)
class Shown:
    """A neuron that the page shows.

    Attributes
    ----------
    layer : int
    picked : Picked
        Which neuron, and why.
    figures : dict of str to float
        Its row of the table of effects.
    texts : tuple of CodeText
    truth : Mapping or None
        Its row of the table of truth.
    about : NeuronAnswer or None
        What takes the model's weights.
    images : sequence of (str, str)
        Data URLs of its top images with what stands below, in place of ``about``.
    """

    layer: int
    picked: Picked
    figures: Mapping[str, float]
    texts: tuple[CodeText, ...]
    truth: Mapping[str, object] | None
    about: NeuronAnswer | None
    images: Sequence[tuple[str, str]]


def neuron_section(shown: Shown, why: str, made: Made) -> Section:
    """One neuron with its top images.

    Parameters
    ----------
    why : str
        Why it is not shown where it fires; empty where it is.
    """
    layer, neuron, figures = shown.layer, shown.picked.neuron, shown.figures
    first = [t for t in shown.texts if t.coefficient > 0][:TITLED]
    titled = " and ".join(f"“{t.text}”" for t in first) or "Not said by any text"
    rare = figures["norm_large"] / figures["norm_mean"] if figures["norm_mean"] else float("nan")
    said = [
        f"shown as {shown.picked.why}",
        f"on its top images its effect is at least {rare:.1f} times its mean length, and one "
        f"direction holds {figures['explained_top']:.0%} of it there",
    ]
    if shown.truth is not None:
        said.append(
            f"it tells images of “{shown.truth['text']}” from others with an AUC of "
            f"{shown.truth['auc']:.2f}; random texts give {shown.truth['auc_random']:.2f}, chance "
            "0.50"
        )
    return section(
        f"{titled}: {neuron_name(layer, neuron)}",
        "Beside each image is where the neuron fires on it (blue), and the score of its effect."
        if not why
        else "The images on which its effect is longest, and the score of its effect there.",
        name=picture_of(layer, neuron),
        found=sentences.joined(said),
        notes=[why] if why else [],
        plot=() if shown.about is None else neuron_figure(shown.about),
        pictures=shown.images,
        links=[link("its code", f"#{code_of(layer, neuron)}")] if shown.texts else [],
        made=made,
    )
