"""Labels of heads by every kind of judge: the job, on a small random model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tenacity import wait_none

from jobs import compare_models, extract, label, report, show
from jobs.compare_models import CompareModelsConfig
from jobs.label import LabelConfig
from pipeline.heads.describe import describe_heads
from pipeline.labels import by_model
from pipeline.labels.answers import compared
from pipeline.labels.by_lexicon import Properties
from pipeline.labels.found import heads_with
from pipeline.labels.lexicon import load_lexicon
from pipeline.labels.tables import LABELS
from pipeline.language import choices, servers
from pipeline.texts import load_pool
from pipeline.texts.encoding import TextEncoder
from storage import urls
from storage.errors import FacetError
from storage.results import as_table, finished_results, save_result
from storage.store import Store
from tests import tiny
from tests.pipeline.labels.plain_labels import plain_shares
from tests.pipeline.language.chat_kit import Chat, content, sensible, served
from tests.refusals import refused
from tests.storage import stores

TINY = tiny.tiny({"layers": 3, "mlp_ratio": 1.0}, {"width": 32})
KEY = "sk-very-secret"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("label")
    tiny.write_config(folder, TINY)
    return extract.main(
        extract.ExtractConfig(
            images="microworld:n=60,seed=3,split=test", model=str(folder / "tiny.json"),
            pretrained="none", store=str(folder / "store"), store_dtype="float32", shard_size=32,
            seed=5, workers="here",
        )
    )  # fmt: skip


@pytest.fixture
def chat(monkeypatch) -> Chat:
    monkeypatch.setattr(servers, "WAIT", wait_none())
    with served() as found:
        monkeypatch.setenv(choices.BASE_URL, found.url)
        monkeypatch.setenv(choices.KEY, KEY)
        yield found


def asked(store: Store, **changes) -> LabelConfig:
    return replace(LabelConfig(store.url, layers="last:2", workers="here"), **changes)


def test_labels_by_the_lexicon_are_those_of_plain_loops(store, capsys):
    run = label.main(asked(store))
    found = run.found.labels.set_index(["layer", "head"])
    encoder, lexicon = TextEncoder(store), load_lexicon("microworld")
    properties = Properties.of(lexicon, encoder.encode("l", lexicon.texts).embeddings)
    shares, data = run.result.table("properties").to_pandas(), store.contributions()
    for at, of in shares.groupby(["layer", "head"]):
        # In float64, as the job sums them; what readers get is rounded to float32.
        wrote = data["heads"].sel(layer=at[0], head=at[1]).values.astype(float)
        ahead = store.model()["head_map"].sel(layer=at[0], head=at[1]).values.astype(float)
        contributions = wrote @ ahead / data["ln_std"].values.astype(float)[:, None]
        contributions /= np.linalg.norm(data["embedding"].values.astype(float), axis=1)[:, None]
        plain = [plain_shares(contributions, rows) for rows in properties.texts]
        np.testing.assert_allclose(of["share"], plain, rtol=1e-6)
        assert found.loc[at, "label"] == lexicon.names[int(np.argmax(plain))]
    # What fits, and how much of what is explained that is.
    texts = run.result.table("texts").to_pandas()
    rows = encoder.encode("p", texts["text"].unique()).embeddings
    fitting = dict(zip(texts["text"].unique(), properties.fitting(rows), strict=True))
    for at, of in texts.groupby(["layer", "head"]):
        column = lexicon.names.index(found.loc[at, "label"])
        fits = [bool(fitting[text][column]) for text in of["text"]]
        assert of["fits"].tolist() == fits
        assert found.loc[at, "fitting"] == sum(fits)
        explained = of["explained_variance"]
        assert found.loc[at, "share"] == pytest.approx(explained[fits].sum() / explained.sum())
    # Held against the truth, and given back to whoever asks for the heads of a property.
    right = found["label"] == found["role"]
    assert run.found.scores["agreement"] == pytest.approx(right.mean())
    weighted = (right * found["variance"]).sum() / found["variance"].sum()
    assert run.found.scores["agreement by variance"] == pytest.approx(weighted)
    some = found["label"].iloc[0]
    assert heads_with(store, some) == tuple(found.index[found["label"] == some])
    shown = show.main(show.ShowConfig("label", store.url)).found
    pd.testing.assert_frame_equal(shown.labels, run.found.labels)
    page = report.main(report.ReportConfig(store.url))
    assert "What heads are about" in Path(page).read_text()
    assert "agreement by variance" in capsys.readouterr().out


def test_texts_are_those_that_textspan_picks_first(store):
    run = label.main(asked(store, pool="general", layers="last:1"))
    pool = load_pool("general")
    rows = TextEncoder(store).encode("general", pool.texts).embeddings
    heads = [(2, h) for h in range(store.meta.heads)]
    span = describe_heads(store, store.reductions(), heads, rows, 5)
    picked = [pool.texts[i] for i in span.picks.ravel()]
    assert run.found.texts["text"].tolist() == picked


def test_settings_of_labels(store, tmp_path):
    plain = label.main(asked(store))
    mine = tmp_path / "mine.txt"
    mine.write_text("[Hue]\na red thing\na blue thing\n\n# about nothing\n[scene]\nat night\n")
    for changes in (
        {"pool": "general"}, {"lexicon": str(mine)}, {"layers": "last:1"}, {"where": "count < 3"},
    ):  # fmt: skip
        other = label.main(asked(store, **changes))
        assert other.result.url != plain.result.url, changes
        assert not other.found.labels.equals(plain.found.labels), changes
    by_mine = label.main(asked(store, lexicon=str(mine)))
    assert set(by_mine.found.labels["label"]) <= {"Hue", "scene"}
    assert by_mine.found.labels["measured"].isna().all()
    assert "agreement" not in by_mine.found.scores
    mine.write_text(mine.read_text() + "on snow\n")  # another list under the same name
    assert label.main(asked(store, lexicon=str(mine))).result.url != by_mine.result.url


def test_a_server_labels_and_what_it_said_is_kept(store, chat, tmp_path, capsys):
    run = label.main(asked(store, with_="openai:small"))
    labels = run.found.labels
    heads = len(labels)
    assert set(labels["label"]) == {"shape"}
    assert labels["fitting"].eq(2).all()
    assert run.found.texts["fits"].tolist() == [True, False, True, False, False] * heads
    assert run.found.scores["entanglement"] == 1.0
    assert run.found.scores["association"] == 0.0
    assert run.found.scores["2 texts"] == 1.0
    # All that was asked and answered, verbatim; the key was sent, and is nowhere.
    answers = run.result.table("answers").to_pandas()
    assert len(answers) == len(chat.asked) == 2 * heads
    sent = {json.dumps(body["messages"], ensure_ascii=False) for body in chat.asked}
    assert set(answers["prompt"]) == sent
    assert set(answers["answer"]) == {"label: Shape.", "fits: 1, 3"}
    assert {body["model"] for body in chat.asked} == {"small"}
    assert {body["temperature"] for body in chat.asked} == {0}
    assert {body["key"] for body in chat.asked} == {KEY}
    facts = run.result.provenance
    assert facts["server"] == chat.url
    assert facts["settings"] == by_model.SETTINGS["openai"]
    assert [e[0] for e in facts["examples"]][:2] == ["colours", "counting"]
    files = [p for p in Path(store.url).rglob("*") if p.is_file()]
    assert not [p for p in files if KEY.encode() in p.read_bytes()]
    assert KEY not in "".join(capsys.readouterr())
    assert not urls.exists(urls.join(run.result.url, "answers"))
    # The same again asks nothing; other examples ask anew.
    label.main(asked(store, with_="openai:small"))
    assert len(chat.asked) == 2 * heads
    mine = tmp_path / "examples.txt"
    mine.write_text("[sounds]\na bell\n- a red star\n")
    label.main(asked(store, with_="openai:small", examples=str(mine)))
    messages = chat.asked[-1]["messages"]
    assert messages[1]["content"].endswith("1. a bell\n2. a red star")
    assert messages[2]["content"] in ("label: sounds", "fits: 1")


def test_answers_that_cannot_be_read_are_asked_again_then_listed(store, chat, capsys):
    def reply(body: dict) -> tuple[int, str]:
        question = body["messages"][-1]["content"]
        if question.startswith("That could not be read"):
            return content("label: colour") if "label" in question else content("fits: all of it")
        return content("Well, let me see …")

    chat.reply = reply
    run = label.main(asked(store, with_="openai:odd", attempts=2))
    labels, answers = run.found.labels, run.result.table("answers").to_pandas()
    assert set(labels["label"]) == {"colour"}
    assert labels["fitting"].eq(0).all()
    heads = [f"{row.layer}.{row.head}" for row in labels.itertuples()]
    assert run.result.provenance["unread"] == heads
    first = answers[answers["head"].eq(0) & answers["layer"].eq(1)]
    assert first["question"].tolist() == ["label", "label", "fits", "fits"]
    assert first["attempt"].tolist() == [0, 1, 0, 1]
    assert first["read"].tolist() == [False, True, False, False]
    again = json.loads(first["prompt"].iloc[1])
    assert again[-2] == {"role": "assistant", "content": "Well, let me see …"}
    assert "answers not read" in capsys.readouterr().out
    chat.reply = lambda body: content("?")
    none = label.main(asked(store, with_="openai:odder", attempts=1))
    assert none.found.labels["label"].isna().all()
    assert none.found.scores["unlabelled"] == 1.0
    with refused(FacetError, "none: no head was given a label"):
        heads_with(store, "colour")
    shown = show.main(show.ShowConfig("label", store.url, format="json"))
    assert shown.found.labels["label"].isna().all()


def test_a_server_that_fails_costs_no_answer(store, chat):
    count = 0

    def third_fails(body: dict) -> tuple[int, str]:
        nonlocal count
        count += 1
        return sensible(body) if count <= 3 else (500, f"no memory left, {KEY}")

    chat.reply = third_fails
    before = len(finished_results(store.url, "label"))
    config = asked(store, with_="openai:tired")
    with refused(FacetError, "no answer in 5 tries: status 500, 'no memory left, …'.*are kept"):
        label.main(config)
    assert len(finished_results(store.url, "label")) == before
    chat.reply, tired = sensible, len(chat.asked)
    run = label.main(config)
    assert len(chat.asked) - tired == 2 * len(run.found.labels) - 3
    other = label.main(asked(store, with_="openai:fresh"))
    assert other.found.labels.equals(run.found.labels)


def test_models_side_by_side(store, neurons_kept, tmp_path, capsys):
    first = label.main(asked(store)).found
    place = str(tmp_path / "view")  # the other store's results are other tests'
    second = label.main(LabelConfig(neurons_kept.url, out=place, workers="here")).found
    capsys.readouterr()
    found = compare_models.main(CompareModelsConfig((store.url, place)))
    assert [m.scores for m in found] == [first.scores, second.scores]
    assert [m.heads for m in found] == [len(first.labels), len(second.labels)]
    printed = capsys.readouterr().out
    for name in ("entanglement", "overlap", "association", "3 texts"):
        assert f"{first.scores[name]:.3f}" in printed, name
    assert "these labels differ in layers" in printed
    compare_models.main(CompareModelsConfig((place,), format="json"))
    (told,) = json.loads(capsys.readouterr().out)
    assert told["scores"] == second.scores
    with refused(FacetError, "name at least one store"):
        compare_models.main(CompareModelsConfig(()))
    with refused(FacetError, r"no results of label in .*: run `facet label --store \S+` first"):
        compare_models.main(CompareModelsConfig((place, neurons_kept.url)))


@pytest.mark.parametrize(
    ("architecture", "size", "patch"),
    [("ViT-L-14", "L", "14"), ("ViT-B-32-quickgelu", "B", "32"), ("microworld", "", "")],
)
def test_models_are_named_as_the_published_tables_do(architecture, size, patch, tmp_path):
    kept = stores.new_store(str(tmp_path / "s"), architecture=architecture)
    labels = pd.DataFrame([dict.fromkeys(LABELS["labels"].names)]).assign(
        layer=0, head=0, fitting=0, share=0.0, explained=0.0, variance=0.0
    )
    texts = pd.DataFrame({name: [] for name in LABELS["texts"].names})
    scores = pd.DataFrame({"score": ["overlap"], "value": [np.nan]})
    tables = {"labels": labels, "texts": texts, "scores": scores}
    save_result(
        kept.url, "label", {"layers": "all"}, {"judge": "j", "pool": "p", "lexicon": "l"},
        tables={name: as_table(table, LABELS[name]) for name, table in tables.items()},
    )  # fmt: skip
    (found,) = compared([kept])
    assert (found.size, found.patch) == (size, patch)


def test_a_model_of_this_machine_labels(store, tmp_path, monkeypatch):
    from pipeline.language.local import LocalModel
    from tests.pipeline.language.local_kit import tiny_model

    settings = {"do_sample": False, "max_new_tokens": 3}
    monkeypatch.setitem(by_model.SETTINGS, "transformers", settings)
    folder = tiny_model(tmp_path / "lm")
    run = label.main(asked(store, with_=f"transformers:{folder}", attempts=1, layers="last:1"))
    answers = run.result.table("answers").to_pandas()
    assert len(answers) == store.meta.heads
    assert run.result.provenance["settings"] == settings
    ask = LocalModel(str(folder), settings, by_model.SHORTER)
    for row in answers.itertuples():
        assert ask(json.loads(row.prompt)) == row.answer
    # The same model at another place is the same judge.
    moved = folder.rename(tmp_path / "moved")
    again = label.main(asked(store, with_=f"transformers:{moved}", attempts=1, layers="last:1"))
    assert again.result.url == run.result.url


def test_what_cannot_work_is_refused(store, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    lone = tmp_path / "lone.txt"
    lone.write_text("[only]\na text\n")
    monkeypatch.delenv(choices.BASE_URL, raising=False)
    for changes, match in (
        ({"with_": "gpt"}, "--with 'gpt': give lexicon, openai:MODEL or transformers:PATH"),
        ({"with_": "openai:"}, "give lexicon, openai:MODEL"),
        ({"with_": "openai:m"}, "OPENAI_BASE_URL is not set"),
        ({"with_": f"transformers:{empty}"}, "no folder .* with a config.json"),
        ({"examples": str(lone)}, "--examples belongs to --with openai:MODEL"),
        ({"attempts": 0, "with_": "openai:m"}, "--attempts 0"),
        ({"lexicon": "photograph"}, "did you mean 'photographs'"),
        ({"lexicon": str(lone)}, "has 1 properties"),
        ({"layers": "7"}, "layers are 0-2"),
        ({"where": "colour == 3"}, "colour"),
    ):
        with refused(FacetError, match):
            label.main(asked(store, **changes))
    (empty / "config.json").write_text("{}")
    monkeypatch.setattr(choices, "find_spec", lambda name: None)
    with refused(FacetError, r"transformers:.* needs pip install 'facet-interp\[llm\]'"):
        label.main(asked(store, with_=f"transformers:{empty}"))
    for url, match in (
        ("http://me:hush@localhost/v1", "holds more than an address"),
        ("http://hush@localhost/v1", "holds more than an address"),
        ("http://localhost/v1?api_key=hush", "holds more than an address"),
        ("hush@localhost", "holds more than an address"),
        ("localhost:8000", "is 'localhost:8000', no web address"),
        ("http://[::1/v1", "no web address"),
        ("http://localhost:port/v1", "no web address"),
    ):
        monkeypatch.setenv(choices.BASE_URL, url)
        with refused(FacetError, f"^(?!.*hush).*{match}"):
            label.main(asked(store, with_="openai:m"))
    monkeypatch.setenv(choices.BASE_URL, "http://localhost/v1")
    for key in ("hush\nX: y", "hush…"):
        monkeypatch.setenv(choices.KEY, key)
        with refused(FacetError, "^(?!.*hush).*OPENAI_API_KEY holds characters that no key has"):
            label.main(asked(store, with_="openai:m"))
