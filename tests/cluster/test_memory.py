"""What an actor was projected to need holds what it takes, and not much more."""

import contextlib
import threading

import psutil
import pytest

from jobs.extract import ExtractConfig, main
from pipeline.extraction import run

# The projection may be this many times what was measured: a batch's activations are counted as
# if all lived at once.
FACTOR = 4


class Peak:
    """Largest private memory of any extraction actor of this process while the block runs."""

    def __enter__(self):
        self.bytes, self._done = 0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._watcher.join()

    def _watch(self):
        while not self._done.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if " ".join(process.cmdline()).startswith("ray::_Actor"):
                        held = process.memory_info()
                        self.bytes = max(self.bytes, held.rss - held.shared)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("model", "pretrained", "components"),
    [("microworld", "microworld", ("heads", "mlps")), ("ViT-B-32", "none", ("heads", "tokens"))],
)
def test_an_actor_takes_what_it_was_projected_to(
    model, pretrained, components, ray_cluster, tmp_path, monkeypatch
):
    asked = []
    needs = run.needs
    monkeypatch.setattr(run, "needs", lambda *given: asked.append(needs(*given)) or asked[-1])
    with Peak() as peak:
        main(
            ExtractConfig(
                images="microworld:n=192,seed=1,split=test", model=model, pretrained=pretrained,
                store=str(tmp_path / "s"), components=components, shard_size=64, num_actors=1,
            )
        )  # fmt: skip
    assert peak.bytes <= asked[0].memory <= FACTOR * peak.bytes, (peak.bytes, asked[0].memory)
