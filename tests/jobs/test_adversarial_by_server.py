"""``facet adversarial`` by models behind a server that write and draw nothing of use."""

import base64
import io
import json
from dataclasses import replace

import pytest
from PIL import Image
from tenacity import wait_none

from jobs import adversarial, omp
from jobs.adversarial import AdversarialConfig
from pipeline.language import servers
from pipeline.language.choices import BASE_URL
from storage.errors import FacetError
from storage.results import finished_results
from tests.jobs.neuron_store import KEPT, neuron_store
from tests.pipeline.language.chat_kit import content, served
from tests.refusals import refused


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    url = neuron_store(tmp_path_factory.mktemp("served")).url
    omp.main(omp.OmpConfig(url, str(KEPT), "microworld", terms=4, workers="here"))
    return url


@pytest.fixture
def config(store) -> AdversarialConfig:
    return AdversarialConfig(
        store, "star", "heart", sources=("second-order", "none"), repeats=2, ask=6,
        descriptions=2, pictures=2, describe_with="openai:writer", draw_with="openai:painter",
        workers="here",
    )  # fmt: skip


@pytest.fixture
def chat(monkeypatch):
    monkeypatch.setattr(servers, "WAIT", wait_none())
    with served() as found:
        monkeypatch.setenv(BASE_URL, found.url)
        yield found


def black(body: dict) -> tuple[int, str]:
    """A black picture, as safety checkers leave it; refused on snow."""
    if "messages" in body:
        return content("1. A star on snow.\n2. A star at night.\n3. Stars.")
    if "snow" in body["prompt"]:
        return 400, "content policy"
    data = io.BytesIO()
    Image.new("RGB", (64, 64)).save(data, "PNG")
    picture = base64.b64encode(data.getvalue()).decode()
    return 200, json.dumps({"data": [{"b64_json": picture}]})


def test_black_pictures_and_refused_ones_are_outcomes_and_no_failures(config, chat, capsys):
    chat.reply = black
    found = adversarial.main(config).found
    outcomes = found.judged["outcome"].value_counts()
    texts = found.pictures["text"].str.contains("snow")
    assert len(found.judged) == 2 * 2 * 2 * 2
    assert outcomes.get("refused", 0) == texts.sum()
    assert outcomes["blank"] == (~texts).sum() > 0
    assert found.table["share"].isna().all()  # nothing could be judged, and nothing is said of it
    assert found.table["fooled"].eq(0).all()
    said = " ".join(capsys.readouterr().out.split())
    assert "star, taken for heart" in said


def test_a_writer_that_never_names_the_drawn_class_is_told_and_nothing_is_drawn(config, chat):
    chat.reply = lambda body: content("1. A heart on snow.\n2. A red thing.")
    other = replace(config, seed=1, describe_with="openai:other")
    before = len(finished_results(config.store, "adversarial_descriptions"))
    with refused(FacetError, "openai:other wrote no description of 'star' that can be used"):
        adversarial.main(other)
    assert len(finished_results(config.store, "adversarial_descriptions")) == before
    assert {body["path"] for body in chat.asked} == {"chat/completions"}
    # Its answers are kept: the same again is refused without a question.
    asked = len(chat.asked)
    with refused(FacetError, "does not name star"):
        adversarial.main(other)
    assert len(chat.asked) == asked
