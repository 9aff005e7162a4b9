"""Batched pursuit beside scikit-learn's Gram variant: ``python -m benchmarks.omp``.

scikit-learn is timed on a few targets, between runs of ours on a block of them, and its seconds
a target are multiplied; its Gram matrix is computed once and not counted.
Both run in float32 on the same threads. Seconds are the processor's (a GPU's, the wall's), which
other work on the machine does not stretch. Texts and targets are random.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import tyro
from sklearn.linear_model import orthogonal_mp_gram
from threadpoolctl import threadpool_limits

from pipeline.neurons.omp import build_dictionary, omp


@dataclass(frozen=True)
class Config:
    """What is timed."""

    atoms: tuple[int, ...] = (10_000, 30_000)
    """Sizes of the dictionary."""
    targets: int = 3072
    """Neurons of a layer; ours is run on all of them once, and on blocks for the ratio."""
    terms: int = 128
    """Atoms picked for each."""
    embed: int = 512
    """Width of the joint space."""
    block: int = 512
    """Targets of ours in a round."""
    sklearn_targets: int = 2
    """Targets of scikit-learn in a round; 0 leaves it out."""
    sklearn_most_atoms: int = 10_000
    """Largest dictionary that scikit-learn gets: it copies the Gram matrix, 3.6 GB at 30,000."""
    rounds: int = 3
    """Rounds; medians are reported."""
    threads: int = 1
    """CPU threads of both."""
    device: str = "cpu"
    """Where ours runs."""


def main(config: Config) -> None:
    """Print a Markdown table, a row a size."""
    torch.set_num_threads(config.threads)
    print(
        f"{config.targets} targets, {config.terms} terms, embed {config.embed}, float32, "
        f"{config.threads} thread(s), {config.device}; medians of {config.rounds}; scikit-learn: "
        f"{config.sklearn_targets} targets a round, multiplied to {config.targets}\n"
    )
    print("| atoms | ours, s | peak memory, GB | scikit-learn Gram, s (scaled) | ratio |")
    print("|---|---|---|---|---|")
    with threadpool_limits(config.threads):
        for atoms in config.atoms:
            print(row(atoms, config), flush=True)


def row(atoms: int, config: Config) -> str:
    """One row of the table."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(atoms, config.embed, generator=generator)
    targets = torch.randn(config.targets, config.embed, generator=generator)
    dictionary = build_dictionary(texts.to(config.device))
    targets = targets.to(config.device)
    whole = _seconds(lambda: omp(dictionary, targets, config.terms))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    cells = [f"{atoms:,}", f"{whole:.1f}", f"{peak:.2f}"]
    if not config.sklearn_targets or atoms > config.sklearn_most_atoms:
        return f"| {' | '.join(cells)} | – | – |"
    gram = (dictionary @ dictionary.T).cpu().numpy().T  # in the order that it likes
    right = (dictionary @ targets[: config.sklearn_targets].T).cpu().numpy()
    ratios, theirs = [], []
    for round_ in range(-1, config.rounds):  # round -1 warms up
        ours = _seconds(lambda: omp(dictionary, targets[: config.block], config.terms))
        # The least of three: its copies of the matrix are slow on memory that is new to it.
        other = min(
            _seconds(lambda: orthogonal_mp_gram(gram, right, n_nonzero_coefs=config.terms))
            for _ in range(3)
        )
        if round_ < 0:
            continue
        theirs.append(other / config.sklearn_targets * config.targets)
        ratios.append((other / config.sklearn_targets) / (ours / min(config.block, config.targets)))
    return f"| {' | '.join(cells)} | {median(theirs):.0f} | {median(ratios):.1f} × |"


def _seconds(work: Callable[[], object]) -> float:
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started


if __name__ == "__main__":
    main(tyro.cli(Config))
