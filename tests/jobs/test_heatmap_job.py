"""Heat maps of one picture: what patches wrote of texts, and all that the maps leave out."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import xarray as xr
from PIL import Image
from safetensors.torch import save_file

from jobs import extract, heatmap, report, show, textspan
from jobs.heatmap import HeatmapConfig
from pipeline.heads.ablation import StoredParts
from pipeline.heads.choices import parse_heads
from pipeline.heads.edits import edit_from, edited_embedding, write_edit
from pipeline.heads.studies import maps_of
from pipeline.heatmaps.found import HeatMaps
from pipeline.heatmaps.split import TERMS
from pipeline.images.again import load_again
from pipeline.models import ModelSpec, load_model
from pipeline.pages.heatmaps import how
from pipeline.stats.reductions import reduce_store
from pipeline.texts import load_pool
from pipeline.texts.encoding import TextEncoder, store_model
from storage import ledger
from storage.errors import FacetError, StoreError
from storage.store import Store
from tests import tiny
from tests.commands_kit import understood
from tests.pipeline.heatmaps.plain_kit import shares_of
from tests.refusals import refused

TINY = tiny.tiny({"layers": 4, "mlp_ratio": 1.0}, {"width": 32}, quick_gelu=True)
TEXTS = ("a red star", "a blue moon", "snow")
ALL = tuple(f"{layer}.{head}" for layer in (2, 3) for head in range(3))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Pictures of the embedded world by a random model whose biases are no zeros."""
    folder = tmp_path_factory.mktemp("heatmap")
    config = tiny.write_config(folder, TINY)
    state = load_model(ModelSpec(config, "none", 5)).module.state_dict()
    torch.manual_seed(3)
    noisy = {n: v + 0.05 * torch.randn(v.shape) for n, v in state.items() if v.is_floating_point()}
    save_file(state | noisy, folder / "noisy.safetensors")
    made = extract.main(
        extract.ExtractConfig(
            images="microworld:n=40,seed=3,split=test",
            model=config,
            pretrained=str(folder / "noisy.safetensors"),
            store=str(folder / "store"),
            components=("heads", "mlps", "tokens"),
            layers="last:2",
            store_dtype="float32",
            shard_size=32,
            workers="here",
        )
    )
    textspan.main(
        textspan.TextSpanConfig(
            made.url, "microworld", layers="last:2", texts_per_head=8, workers="here"
        )
    )
    return made


@pytest.fixture(scope="module")
def plain(store) -> HeatmapConfig:
    return HeatmapConfig(store.url, image="7", text=TEXTS)


def drawn(config: HeatmapConfig, **changes: object) -> HeatMaps:
    return heatmap.main(replace(config, **changes)).found


def embeddings(store: Store, texts: tuple[str, ...]) -> np.ndarray:
    return TextEncoder(store).encode("texts", texts).embeddings.astype(np.float64)


def written(store: Store, convention: str) -> np.ndarray:
    """What every head wrote from every token of image 7, (layer, token, head, embed), in the joint
    space, each written out; divided by the length of the embedding."""
    model = store_model(store)
    pixels = torch.from_numpy(model.preprocess.to_uint8(load_again(store, 7)).copy())[None]
    (image,) = model.preprocess.to_tensor(pixels)
    return shares_of(model, image, convention).transpose(1, 2).double().numpy()


@pytest.mark.parametrize("convention", ["centred", "equal-share"])
@pytest.mark.parametrize(
    ("chosen", "layers", "heads"),
    [
        ({"layers": "all"}, (0, 1, 2, 3), None),
        ({"layers": "0,3"}, (0, 3), None),
        ({"heads": ("3.0", "1.2")}, (1, 3), {(3, 0), (1, 2)}),
    ],
)
def test_settings_of_maps_are_what_the_model_wrote(store, plain, convention, chosen, layers, heads):
    found = drawn(plain, convention=convention, **chosen)
    by_token = written(store, convention)
    texts = embeddings(store, TEXTS)
    other = np.zeros(3)
    maps = np.zeros((3, 16))
    for layer in layers:
        for head in range(3):
            own = texts @ by_token[layer, :, head].T
            if heads is None or (layer, head) in heads:
                maps += own[:, 1:]
            else:
                other += own.sum(1)
    np.testing.assert_allclose(found.maps.reshape(3, 16), maps, atol=2e-7)
    np.testing.assert_allclose(found.table["other_heads"], other, atol=2e-7)
    assert_whole(found, store, texts)
    assert found.table["text"].tolist() == list(TEXTS)


def assert_whole(found: HeatMaps, store: Store, texts: np.ndarray, atol: float = 1e-6) -> None:
    """Map and terms sum to the product of the model's own embedding."""
    embedding = store.embeddings()[7].values.astype(np.float64)
    logit = texts @ embedding / np.linalg.norm(embedding)
    np.testing.assert_allclose(found.table["logit"], logit, atol=1e-6)
    total = found.maps.sum((1, 2)) + found.table[list(TERMS)].sum(axis=1)
    np.testing.assert_allclose(total, logit, atol=atol)
    np.testing.assert_allclose(found.table["logit"] - total, found.table["residual"], atol=1e-12)
    np.testing.assert_allclose(found.table["shown"], found.maps.sum((1, 2)))
    np.testing.assert_allclose(found.table["share"], found.table["shown"] / found.table["logit"])


def test_what_is_stored_and_a_pass_of_the_model_give_one_map(store, plain):
    stored, passed = drawn(plain), drawn(plain, heads=ALL)
    assert (stored.stored, passed.stored) == (True, False)
    assert stored.layers == [2, 3]
    np.testing.assert_allclose(stored.maps, passed.maps, atol=1e-6)
    for name in (*TERMS, "logit"):
        np.testing.assert_allclose(stored.table[name], passed.table[name], atol=1e-6)
    assert (stored.table[["class_token", "other_layers", "mlps", "start", "constants"]] != 0).all(
        axis=None
    )
    assert_whole(stored, store, embeddings(store, TEXTS))


def test_maps_are_linear_in_their_texts(store, plain):
    each = drawn(plain)
    contrast = drawn(plain, text=TEXTS[:2], against=TEXTS[2])
    np.testing.assert_allclose(contrast.maps, each.maps[:2] - each.maps[2], atol=1e-12)
    logit = each.table["logit"].to_numpy()
    np.testing.assert_allclose(contrast.table["logit"], logit[:2] - logit[2], atol=1e-12)
    assert set(contrast.table["against"]) == {TEXTS[2]}
    there, back = (drawn(plain, text=(a,), against=b) for a, b in (TEXTS[:2], TEXTS[1::-1]))
    assert there.strongest == pytest.approx(back.strongest)  # their scale has two ends
    less = drawn(plain, less_classes="microworld")
    mean = embeddings(store, load_pool("microworld").texts).mean(0)
    assert_whole(less, store, embeddings(store, TEXTS) - mean)
    whole = store.tokens()[7].values.astype(np.float64) @ mean
    length = np.linalg.norm(store.embeddings()[7].values)
    taken = (each.maps - less.maps).reshape(3, 16)
    np.testing.assert_allclose(taken, np.broadcast_to(whole[1:] / length, (3, 16)), atol=1e-7)


@pytest.mark.usefixtures("here")
def test_maps_of_an_edited_embedding(store, plain, tmp_path, capsys):
    gains = {(3, 0): 0.0, (2, 1): 0.5, (1, 2): 2.0}
    edit = edit_from(store, reduce_store(store, None), "three heads", gains, {2: 0.0}, {3: 0.0})
    file = tmp_path / "edit.json"
    file.write_bytes(write_edit(edit))
    found = drawn(plain, edit=str(file), heads=("3.0", "2.1", "2.2"))
    assert (found.edit, found.stored) == ("three heads", False)
    row = store.contributions().isel(image=[7])
    parts = StoredParts(*(row[n].values for n in ("heads", "mlps", "embedding", "ln_std")))
    (edited,) = edited_embedding(parts, edit, maps_of(store)) @ embeddings(store, TEXTS).T
    np.testing.assert_allclose(found.table["logit"], edited, atol=1e-6)
    total = found.maps.sum((1, 2)) + found.table[list(TERMS)].sum(axis=1)
    np.testing.assert_allclose(total, edited, atol=1e-6)
    half, other = (drawn(plain, heads=(head,)).maps for head in ("2.1", "2.2"))
    np.testing.assert_allclose(found.maps, half / 2 + other, atol=1e-6)
    assert "edited (three heads)" in how(found)
    assert "Heat maps of" in capsys.readouterr().out
    with refused(FacetError, "--convention belongs to maps without --edit"):
        drawn(plain, edit=str(file), convention="equal-share")
    file.write_bytes(write_edit(replace(edit, weights="another")))
    with refused(FacetError, "is of weights another, and the store at"):
        drawn(plain, edit=str(file))


def test_a_heads_own_texts_and_where_it_writes_of_them(store, plain):
    found = drawn(plain, text=(), heads=("3.1", "2.0"), pool="microworld")
    descriptions = textspan.main(
        textspan.TextSpanConfig(
            store.url, "microworld", layers="last:2", texts_per_head=8, workers="here"
        )
    ).descriptions
    length = np.linalg.norm(store.embeddings()[7].values)
    assert found.table["extreme"].tolist() == ["largest", "smallest"] * 2
    assert found.table["head"].tolist() == ["3.1", "3.1", "2.0", "2.0"]
    for layer, head, row in ((3, 1, 0), (2, 0, 2)):
        own = descriptions[(descriptions["layer"] == layer) & (descriptions["head"] == head)]
        texts = tuple(own["text"])
        wrote = embeddings(store, texts) @ store.heads(layer, head)[7].values / length
        pair = found.table.iloc[row : row + 2]
        assert pair["text"].tolist() == [texts[wrote.argmax()], texts[wrote.argmin()]]
        np.testing.assert_allclose(pair["coefficient"], [wrote.max(), wrote.min()], atol=1e-6)
        by_token = written(store, "centred")
        maps = embeddings(store, tuple(pair["text"])) @ by_token[layer, 1:, head].T
        np.testing.assert_allclose(found.maps[row : row + 2].reshape(2, 16), maps, atol=2e-7)
        np.testing.assert_allclose(
            pair["shown"] + pair["class_token"], pair["coefficient"], atol=1e-6
        )
    assert found.table["residual"].abs().max() < 1e-6
    less = drawn(plain, text=(), heads=("3.1",), pool="microworld", less_classes="microworld")
    assert less.table["text"].tolist() == found.table["text"].tolist()[:2]
    coefficients = found.table["coefficient"][:2]
    np.testing.assert_allclose(less.table["coefficient"], coefficients, atol=1e-6)
    assert np.abs(less.maps - found.maps[:2]).max() > 1e-4


def test_other_heads_and_other_descriptions_of_them_are_drawn_anew(store, plain):
    one, other = (drawn(plain, heads=(head,)) for head in ("2.1", "2.2"))
    assert np.abs(one.maps - other.maps).max() > 1e-4
    own = replace(plain, text=(), heads=("2.1",), pool="microworld")
    described = textspan.TextSpanConfig(
        store.url, "microworld", layers="last:2", texts_per_head=8, workers="here"
    )
    first = drawn(own)
    assert first.table["text"].nunique() == 2
    textspan.main(replace(described, texts_per_head=1))
    assert drawn(own).table["text"].nunique() == 1
    textspan.main(described)  # what was asked for last counts
    assert drawn(own).table.equals(first.table)


def test_a_file_gives_what_the_stores_image_gives(store, plain, tmp_path):
    load_again(store, 7).save(tmp_path / "seven.png")
    file = drawn(plain, image=None, picture=str(tmp_path / "seven.png"))
    key = store.images(7, 8)["key"][0].as_py()
    image = drawn(plain, image=key)
    assert (image.image, file.image, file.picture) == (7, None, "seven.png")
    assert image.stored
    assert not file.stored
    np.testing.assert_array_equal(file.pixels, image.pixels)
    np.testing.assert_allclose(file.maps, image.maps, atol=1e-6)
    other = drawn(plain, image="8")
    assert np.abs(other.maps - image.maps).max() > 1e-3
    Image.new("RGB", (300, 100), "red").save(tmp_path / "wide.jpg")
    wide = drawn(plain, image=None, picture=str(tmp_path / "wide.jpg"))
    assert wide.pixels.shape == (32, 32, 3)  # the crop that the model saw


def test_what_is_kept_needs_no_model(store, plain, monkeypatch):
    first = drawn(plain, image="9")
    drawn(plain, image="9", text=("a green ring",))

    def loaded(*_: object) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr("pipeline.texts.encoding.store_model", loaded)
    drawn(plain, image="10")
    drawn(plain, image="10", text=("snow", "a green ring"))  # each was met, not both together
    monkeypatch.setattr("jobs.recipes.heatmap.find", loaded)
    again = heatmap.main(replace(plain, image="9", text=(" a red  star", *TEXTS)))
    np.testing.assert_array_equal(again.found.maps, first.maps)
    assert again.found.table.equals(first.table)


def test_tokens_alone_give_the_map_and_what_is_left(store, plain, tmp_path):
    folder = Path(store.url).parent
    config = extract.ExtractConfig(
        images="microworld:n=8,seed=3,split=test", model=str(folder / "tiny.json"),
        pretrained=str(folder / "noisy.safetensors"), store=str(tmp_path / "tokens"),
        components=("tokens",), layers="last:2", store_dtype="float32", workers="here",
    )  # fmt: skip
    alone = drawn(plain, store=extract.main(config).url)
    whole = drawn(plain)
    assert alone.stored
    np.testing.assert_allclose(alone.maps, whole.maps, atol=1e-6)
    beside = whole.table[["other_layers", "mlps", "start", "constants"]].sum(axis=1)
    np.testing.assert_allclose(alone.table["else"], beside, atol=1e-6)
    assert whole.table["else"].eq(0).all()
    assert "not told apart" in how(alone)


def test_a_bad_image_is_refused(store, plain, monkeypatch):
    rows = ledger.read_part(store.data, 0).to_pylist()
    rows[5] |= {"ok": False, "error": "truncated or damaged"}
    part = pa.Table.from_pylist(rows, ledger.SCHEMA)
    monkeypatch.setattr("pipeline.heatmaps.seen.ledger.read_part", lambda *_: part)
    with refused(FacetError, "--image 5: the store has nothing of it: truncated or damaged"):
        drawn(plain, image="5")


def test_one_head_may_be_typed_as_one():
    config = understood("facet heatmap --store s --image 7 --head 22.13 --pool general")
    assert config.heads == ("22.13",)


def test_several_heads_may_be_typed_as_layers_are():
    config = understood("facet heatmap --store s --image 7 --text star --heads 22.1,23.4")
    assert parse_heads(config.heads, 24, 16) == ((22, 1), (23, 4))
    assert parse_heads(("3.2, 0.1", "3.2"), 4, 3) == ((3, 2), (0, 1))
    for text in ("3.0,", "3.0;3.1", "3"):
        with refused(FacetError, "write layer.head, such as 3.0"):
            parse_heads((text,), 4, 3)


class Page(HTMLParser):
    """The texts and addresses of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.addresses = "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_names_every_share(store, plain, capsys):
    run = heatmap.main(replace(plain, heads=("3.0",)))
    folder = Path(run.result.url)
    page = Page((folder / "heatmap.html").read_text())
    assert all(address.startswith("data:") for address in page.addresses)
    assert len(page.addresses) == 4  # the picture and three maps
    assert store.meta.weights in page.text
    for row in run.found.table.to_dict("records"):
        assert f"“{row['text']}”" in page.text
        for name in ("shown", *TERMS, "logit"):
            if name not in ("registers", "else"):  # the model has none; all is told apart
                assert f"{row[name]:+.4f}".replace("-", "−") in page.text, name
    for said in ("class token", "other heads", "other layers", "MLPs", "start", "constants"):
        assert said in page.text
    for name in ("picture.png", "map-00.png", "map-01.png", "map-02.png"):
        assert Image.open(folder / name).size == (32, 32)
    kept = xr.open_zarr(folder / "maps.zarr")
    assert kept["map"].dims == ("text", "row", "column")
    assert kept["text"].values.tolist() == list(TEXTS)
    np.testing.assert_array_equal(kept["map"].values, run.found.maps)
    capsys.readouterr()
    shown = show.main(show.ShowConfig("heatmap", store.url)).found
    np.testing.assert_array_equal(shown.maps, run.found.maps)
    assert "a blue moon" in capsys.readouterr().out
    show.main(show.ShowConfig("heatmap", store.url, format="json"))
    told = json.loads(capsys.readouterr().out)["found"]
    assert told["maps"] == run.found.maps.tolist()
    assert told["table"][0]["coefficient"] is None  # of no head alone
    place = report.main(report.ReportConfig(store.url))
    assert "Where in image 7" in Page(Path(place).read_text()).text


def test_a_picture_that_is_gone_is_drawn_grey(store, plain, monkeypatch):
    from pipeline.images.errors import BadImage

    def gone(*_: object) -> None:
        raise BadImage("does not exist")

    kept = drawn(plain, image="11")
    monkeypatch.setattr("pipeline.heatmaps.seen.load_again", gone)
    run = heatmap.main(replace(plain, image="11"))
    np.testing.assert_array_equal(run.found.maps, kept.maps)
    assert len(np.unique(run.found.pixels)) == 1
    assert "is grey: does not exist" in Path(run.result.url, "heatmap.html").read_text()
    with refused(FacetError, r"--image 11 is not to be had as it was \(does not exist\)"):
        drawn(plain, image="11", layers="all")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"picture": "x.png"}, FacetError, "give one picture"),
        ({"image": None}, FacetError, "give one picture"),
        ({"image": "40"}, FacetError, "--image '40': no image of .* by number, .* 0-39"),
        ({"image": "tst-3/00000007"}, FacetError, "did you mean 'test-3/00000007'"),
        ({"text": ()}, FacetError, "say what to look for"),
        ({"text": (" ",)}, FacetError, "a text is empty"),
        ({"against": "snow"}, FacetError, "their difference is nothing"),
        ({"against": "x", "less_classes": "general"}, FacetError, "--less-classes belongs"),
        ({"layers": "4"}, FacetError, "the model's layers are 0-3"),
        ({"heads": ("3.3",)}, FacetError, "layers 0-3, heads 0-2"),
        ({"heads": ("3.0",), "layers": "all"}, FacetError, "--layers belongs to"),
        ({"pool": "microworld"}, FacetError, "--text belongs to"),
        ({"edit": "gone.json"}, FacetError, "there is no edit at gone.json"),
        ({"pool": "microworld", "text": ()}, FacetError, "name them by --heads"),
        ({"pool": "general", "text": (), "heads": ("3.0",)}, StoreError,
         "described by general; there are of microworld: run `facet textspan .*--pool general"),
        ({"pool": "microworld", "text": (), "heads": ("0.0",)}, StoreError,
         "layer 0, head 0 has no texts of microworld .*run `facet textspan .*--layers 0"),
        ({"text": ("dog " * 20,)}, FacetError, "16 tokens .* would remain '(dog ?){14}'"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(plain, changes, error, message):
    with refused(error, message):
        heatmap.main(replace(plain, **changes))


def test_without_weights_only_what_is_kept_is_drawn(store, plain, tmp_path, monkeypatch):
    drawn(plain, image="12")
    monkeypatch.setattr("pipeline.texts.encoding.remembered", lambda url: "/gone/x.safetensors")
    drawn(plain, image="13")
    with refused(FacetError, r"x.safetensors is gone.*--pretrained FILE"):
        drawn(plain, image="13", layers="all")
    file = str(Path(store.url).parent / "noisy.safetensors")
    assert not drawn(plain, image="13", layers="all", pretrained=file).stored
