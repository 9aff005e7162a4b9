"""Sections of the page: neurons of a layer, and what is known of all."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.neurons.about import NeuronAnswer
from pipeline.neurons.truth import NeuronTruth, truth_facts

from .heads import signed
from .html import Section, section
from .neuron_figure import neuron_figure, truth_figure


def neuron_sections(neurons: Sequence[NeuronAnswer], truth: NeuronTruth | None) -> list[Section]:
    """Neurons of one layer, one section each; first how true the layer's texts are.

    Parameters
    ----------
    neurons : sequence of NeuronAnswer
    truth : NeuronTruth or None
        Of the same layer.
    """
    sections = []
    if neurons and truth is not None and len(truth.table):
        facts = truth_facts(truth)
        sections.append(
            section(
                f"Neurons of MLP layer {neurons[0].layer} against the truth",
                "How well each neuron tells the images that its text is true of from the others "
                "(area under the ROC curve of its firing; 0.5 is chance). The text is the one with "
                "the largest positive coefficient of the neuron's sparse code. "
                + ". ".join(f"{name.strip()}: {said}" for name, said in facts.items())
                + ".",
                plot=truth_figure(truth),
            )
        )
    for found in neurons:
        figures = found.figures
        sections.append(
            section(
                f"Neuron {found.neuron} of MLP layer {found.layer}",
                f"{signed(found.texts[:4]) or 'not coded'}. On its top images its effect is "
                f"{figures['norm_large'] / figures['norm_mean']:.1f} times its mean length or "
                f"longer; {figures['explained_top']:.0%} of it there lies along one direction. "
                "Beside each image is where the neuron fires on it (blue), and the score of its "
                "effect.",
                plot=neuron_figure(found),
            )
        )
    return sections
