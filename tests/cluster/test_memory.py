"""What a worker of each kind was projected to need holds what it takes, and not much more."""

import contextlib
import threading

import numpy as np
import psutil
import pytest

from jobs import extract, rosetta, second_order
from pipeline.cluster import machines
from pipeline.cluster.work import Needs
from pipeline.neurons.codes import code_neurons
from tests.processes import ACTOR, workers

FACTOR = 1.5
PICTURES = "microworld:n=96,seed=1,split=test"


class Peak:
    """Largest private memory of any worker of this process's Ray while the block runs."""

    def __init__(self, title: str) -> None:
        self.title, self.bytes, self._done = title, 0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self):
        self._watcher.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._watcher.join()

    def _watch(self):
        while not self._done.wait(0.05):
            for process in workers(self.title):
                with contextlib.suppress(psutil.NoSuchProcess):
                    held = process.memory_info()
                    self.bytes = max(self.bytes, held.rss - held.shared)


def extraction(folder, **changes):
    fields = {
        "images": PICTURES, "model": "ViT-B-32", "pretrained": "none", "store": str(folder / "s"),
        "components": ("heads", "tokens"), "shard_size": 48, "num_actors": 1,
    }  # fmt: skip
    return extract.ExtractConfig(**{**fields, **changes})


def extract_small(folder):
    small = {"model": "microworld", "pretrained": "microworld", "components": ("heads", "mlps")}
    return lambda: extract.main(extraction(folder, **small))


def extract_large(folder):
    return lambda: extract.main(extraction(folder))


def neurons(folder):
    made = {"workers": "here", "num_actors": "auto", "components": ("mlps",), "limit": 48}
    store = extract.main(extraction(folder, **made))
    asked = second_order.SecondOrderConfig(
        store.url, mlp_layers="9", top_k=10, num_actors=1, workers="ray"
    )
    return lambda: second_order.main(asked)


def shared_units(folder):
    models = (
        "timm:resnet18/none@layer3,layer4",
        "timm:vit_tiny_patch16_224/none@blocks.?.mlp.act",
    )
    asked = rosetta.RosettaConfig(
        models=models, images=PICTURES, limit=48, out=str(folder / "out"), shard_size=24,
        num_actors=1,
    )  # fmt: skip
    return lambda: rosetta.main(asked)


def codes(folder):
    rng = np.random.default_rng(0)
    texts, directions = (rng.normal(size=(n, 512)).astype(np.float32) for n in (10_000, 512))

    def run():
        machines.connect()
        return code_neurons(texts, directions, "omp", (8, 128), written=True)

    return run


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("kind", "title"),
    [
        (extract_small, ACTOR),
        (extract_large, ACTOR),
        (neurons, ACTOR),
        (shared_units, ACTOR),
        (codes, "ray::_code"),
    ],
)
def test_a_worker_takes_what_it_was_projected_to(kind, title, ray_cluster, tmp_path, monkeypatch):
    run, asked, options = kind(tmp_path), [], Needs.options
    monkeypatch.setattr(Needs, "options", lambda self: asked.append(self.memory) or options(self))
    with Peak(title) as peak:
        run()
    projected, taken = max(asked), peak.bytes
    print(f"{kind.__name__}: {projected / 1e6:.0f} MB projected, {taken / 1e6:.0f} MB taken")
    assert taken / FACTOR <= projected <= FACTOR * taken
