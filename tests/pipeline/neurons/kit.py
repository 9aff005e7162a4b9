"""The phases of second-order effects without Ray: what its tasks and actors call, one by one."""

from itertools import pairwise

import torch

from pipeline.images.batches import load_batch
from pipeline.neurons import phases
from pipeline.neurons.workers import NeuronWorker, read_shard


def from_store(store, task, layer, shards):
    for shard in shards:
        yield shard, {layer: read_shard(store.url, task, shard, layer)}


def from_model(store, task, model, workers, memory, pieces, report, say):
    worker = NeuronWorker(store.url, model, "cpu", torch.get_num_threads())
    for piece in pieces:
        start, stop = store.meta.rows(piece[0])
        batches = (
            load_batch(store.url, first, last, model.preprocess.resize)
            for first, last in pairwise([*range(start, stop, workers.batch_size), stop])
        )
        yield piece[0], worker.run(piece, task, batches)


def in_process(monkeypatch):
    """For the rest of a test."""
    monkeypatch.setattr(phases, "from_store", from_store)
    monkeypatch.setattr(phases, "from_model", from_model)
