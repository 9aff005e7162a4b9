"""Encoding of pools: what a text gets, what a stop costs, what is said of the time it takes."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.models import ModelSpec, load_model
from pipeline.telling import Teller
from pipeline.texts import encoding
from pipeline.texts.embedding import TOKENS, Passes, encode_texts, in_batches
from pipeline.texts.encoding import TextEncoder, store_model, tokenizer_of
from storage import open_store, urls
from storage.records import config_digest
from storage.results import save_result
from tests.pipeline.extraction.kit import new_store
from tests.tiny import tiny, write_config

ROOT = Path(__file__).resolve().parents[3]
# Texts of many lengths, in no order.
WORDS = ["dog", "star", "snow"]
POOL = [" ".join(WORDS[: 1 + i % 3] * (1 + i * 7 % 4)) + f" {i}" for i in range(60)]
BATCH = 8
# A run that is stopped after its second part, for good: whoever started it kills it there.
RUN = f"""
import sys, time
from pipeline.texts import embedding, encoding
from storage import open_store
kept, parts = encoding.write_part, []

def write_part(*of):
    kept(*of)
    parts.append(of)
    if len(parts) == 2:
        print("two parts", flush=True)
        time.sleep(600)

encoding.write_part, encoding.PART_SECONDS, embedding.TOKENS = write_part, 0.0, 40
encoding.TextEncoder(open_store(sys.argv[1])).encode("words", {POOL!r})
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    path = write_config(folder, tiny(text={"layers": 2}))
    model = load_model(ModelSpec(path, "none", 5))
    return new_store(
        folder / "s", "microworld:n=2,seed=1", model, 2,
        architecture=path, architecture_digest=config_digest(model.config), weights="none:5",
    )  # fmt: skip


@pytest.fixture
def store(made):
    """A store with no results."""
    yield open_store(made.url)
    urls.remove(urls.join(made.url, "results"))


@pytest.fixture
def encoded(monkeypatch):
    """Texts that pass through the tower, pass by pass."""
    seen, embed = [], Passes.embed

    def noted(self, batch_b):
        seen.append([self.texts[i] for i in batch_b])
        return embed(self, batch_b)

    monkeypatch.setattr(Passes, "embed", noted)
    monkeypatch.setattr("pipeline.texts.embedding.TOKENS", 40)
    return seen


def test_a_text_gets_what_it_gets_alone_at_full_length(store):
    model = store_model(store)
    tokenizer = tokenizer_of(model)
    found = encode_texts(model.module, tokenizer, POOL, BATCH)
    with torch.inference_mode():
        alone = [model.module.encode_text(tokenizer([text]), normalize=True)[0] for text in POOL]
    np.testing.assert_allclose(found, torch.stack(alone).numpy(), rtol=0, atol=1e-6)


def test_batches_go_by_length_over_the_whole_pool():
    tokens = np.random.default_rng(0).integers(3, 77, 1000)
    batches = in_batches(tokens, 100)
    assert sorted(np.concatenate(batches)) == list(range(1000))
    assert (np.diff(tokens[np.concatenate(batches)]) <= 0).all()
    assert all(len(b) <= 100 and len(b) * tokens[b[0]] <= TOKENS for b in batches)
    assert [len(b) for b in in_batches(np.array([TOKENS + 1, 5]))] == [1, 1]


def test_a_killed_run_loses_what_followed_its_last_part(store, encoded):
    whole = TextEncoder(store).encode("words", POOL).embeddings
    passes = list(encoded)
    assert len(passes) > 5
    urls.remove(urls.join(store.url, "results"))
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, store.url], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.stdout.readline() == "two parts\n"
    run.send_signal(signal.SIGKILL)
    assert run.wait(60) == -signal.SIGKILL
    run.stdout.close()
    encoded.clear()
    again = TextEncoder(store).encode("words", POOL)
    assert encoded == passes[2:]  # no text of the two parts is encoded again
    np.testing.assert_array_equal(again.embeddings, whole)
    assert "parts" not in urls.list_names(again.result.url)


def test_texts_of_another_pool_are_not_encoded_again(store, encoded):
    first = TextEncoder(store).encode("words", POOL)
    encoded.clear()
    second = TextEncoder(store).encode("more", ["a new one", *POOL[5:9], POOL[0]])
    assert encoded == [["a new one"]]
    np.testing.assert_array_equal(second.embeddings[1:5], first.embeddings[5:9])
    np.testing.assert_array_equal(second.embeddings[5], first.embeddings[0])


def test_embeddings_of_other_weights_are_not_taken(store, encoded):
    kept = TextEncoder(store).encode("words", POOL).result
    save_result(
        store.url, encoding.JOB, {**kept.config, "weights_digest": "another"}, kept.provenance,
        tables={"texts": kept.table("texts")}, arrays={"embeddings": kept.arrays("embeddings")},
    )  # fmt: skip
    urls.remove(kept.url)
    encoded.clear()
    TextEncoder(store).encode("more", POOL[:3])
    assert sorted(text for texts in encoded for text in texts) == sorted(POOL[:3])


def test_how_much_and_how_long_is_said_first(store, monkeypatch):
    told = []

    @contextmanager
    def bar(what, total, kept):
        told.append((what, total, kept))
        yield told.append

    monkeypatch.setattr(encoding, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(encoding, "PART_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.texts.embedding.TOKENS", 40)
    TextEncoder(store).encode("words", POOL, Teller(say=told.append, bar=bar))
    tokens = sum(Passes(*model_of(store), POOL).tokens_m)
    assert told[0] == f"words: 60 texts to encode, {tokens} tokens"
    assert told[1] == ("tokens of words", tokens, "finished parts are kept")
    assert [what for what in told if str(what).startswith("this takes about")] == told[3:4]
    numbers = [n for n in told[2:] if not isinstance(n, str)]
    assert numbers == sorted(numbers)
    assert numbers[-1] == tokens


def model_of(store):
    model = store_model(store)
    return model.module, tokenizer_of(model)
