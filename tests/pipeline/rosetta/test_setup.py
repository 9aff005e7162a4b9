"""What a run may hold, before it begins."""

from pipeline.cluster import machines
from pipeline.rosetta import plan
from pipeline.rosetta.setup import choose, load_all
from storage.rosetta import Setup


def test_the_one_worker_of_this_process_may_hold_what_one_may(here, monkeypatch):
    """Not the share of as many as the machine has CPUs: images would pass the models again."""
    models = load_all(["microworld-cnn", "microworld-mae"])
    cards = {slug: model.card for slug, model in models.items()}
    wanted = plan.wanted_tiles(cards.values(), next(iter(cards.values())))
    monkeypatch.setattr(machines.psutil, "cpu_count", lambda: 4096)
    monkeypatch.setattr(machines, "memory", lambda: 8 << 30)
    workers, hold = choose(Setup("digest", 20, 10, 5), models, wanted, "cpu", None)
    assert workers.actors == 1
    assert hold == plan.pass_bytes(wanted, cards)
