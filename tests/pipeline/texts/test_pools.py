"""Pools, classes and their embeddings."""

from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.images.listing import list_images
from pipeline.microworld.words import microworld_attributes
from pipeline.microworld.world import ATTRIBUTES
from pipeline.texts import load_classes, load_pool
from pipeline.texts.classes import PoolError, class_means
from pipeline.texts.embedding import count_too_long, encode_texts
from pipeline.texts.lists import make_general


@pytest.fixture(scope="module")
def tiny() -> tuple[open_clip.CLIP, open_clip.SimpleTokenizer]:
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
        text_cfg={"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    )
    return model.eval(), open_clip.SimpleTokenizer(context_length=12)


def test_a_text_file_is_trimmed_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "pool.txt"
    file.write_text("a dog\n\n  a   cat \na dog\n   \nein Hündchen", encoding="utf-8-sig")
    pool = load_pool(file)
    assert pool.texts == ("a dog", "a cat", "ein Hündchen")
    assert (pool.blank, pool.duplicates) == (2, 1)
    assert "3 texts (1 duplicates and 2 blank lines left out)" in pool.report


def test_parquet_takes_the_text_column_or_the_only_string_column(tmp_path: Path) -> None:
    file = tmp_path / "pool.parquet"
    pq.write_table(pa.table({"text": ["a", None, "b"], "source": ["x", "y", "z"]}), file)
    assert load_pool(file).texts == ("a", "b")
    assert load_pool(file).blank == 1
    pq.write_table(pa.table({"word": pa.array(["a"], pa.large_string()), "rank": [1]}), file)
    assert load_pool(str(file)).texts == ("a",)
    pq.write_table(pa.table({"x": ["a"], "y": ["b"]}), file)
    with pytest.raises(PoolError, match="called 'text'"):
        load_pool(file)
    for texts in (pa.array(["a"], pa.string_view()), pa.array(["a"]).dictionary_encode()):
        pq.write_table(pa.table({"word": texts}), tmp_path / "pool.PQ")
        assert load_pool(tmp_path / "pool.PQ").texts == ("a",)
    file.write_text("a dog")
    with pytest.raises(PoolError, match="not a Parquet file"):
        load_pool(file)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("general", 3000, 5000),
        ("microworld", 300, 900),
        ("imagenet-classes", 998, 998),
        ("common-words:200", 200, 200),
    ],
)
def test_named_pools(name: str, low: int, high: int) -> None:
    pool = load_pool(name)
    assert low <= len(pool.texts) <= high
    assert len(set(pool.texts)) == len(pool.texts)


def test_unknown_empty_and_malformed_pools_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "latin.txt").write_bytes("dog\nHündchen\nKätzchen".encode("latin-1"))
    (tmp_path / "utf16.txt").write_bytes("a dog".encode("utf-16-le"))
    for source, words in [
        ("genral", "did you mean 'general'"),
        (tmp_path / "none.txt", "no pool and no file"),
        (tmp_path / "empty.txt", "is empty"),
        (tmp_path / "latin.txt", r"not UTF-8 text \(2 bytes, the first in line 2\)"),
        (tmp_path / "utf16.txt", r"NUL characters, the first in line 1"),
        ("common-words:", "how many words"),
        ("common-words:0", "how many words"),
    ]:
        with pytest.raises(PoolError, match=words):
            load_pool(source)


def test_the_script_writes_the_general_pool_and_its_texts_differ() -> None:
    texts = make_general.descriptions()
    assert make_general.FILE.read_text(encoding="utf-8").splitlines() == texts
    assert len({text.lower() for text in texts}) == len(texts)
    assert not [t for t in texts if "{" in t or "  " in t or t != t.strip()]
    assert make_general.with_article("unicorn") == "a unicorn"
    assert make_general.with_article("oval") == "an oval"
    assert make_general.with_article("x-ray image") == "an x-ray image"


def test_every_microworld_text_names_its_attributes() -> None:
    assert microworld_attributes("a photo of two Red stars in the snow") == {
        "count", "colour", "shape", "background",
    }  # fmt: skip
    assert microworld_attributes("things in front of a brick wall") == {"background"}
    assert microworld_attributes("a thing in the middle") == {"place"}
    assert microworld_attributes("an image of things") == set()
    for attribute in ATTRIBUTES:
        classes = load_classes(f"microworld:{attribute}")
        for prompts in classes.prompts:
            assert all(microworld_attributes(text) == {attribute} for text in prompts)
    sizes = {len(microworld_attributes(text)) for text in load_pool("microworld").texts}
    assert sizes == {1, 2}


def test_labels_become_classes_or_an_error() -> None:
    imagenet = load_classes("imagenet")
    assert imagenet.truth(["n01491361", "goldfish", "5"]).tolist() == [3, 1, 5]
    shapes = load_classes("microworld:shape")
    pair = load_classes("microworld:shape=star,heart")
    assert pair.names == ("star", "heart")
    assert pair.prompts[1] == shapes.prompts[shapes.names.index("heart")]
    with pytest.raises(PoolError, match="never 'stare' .did you mean 'star'"):
        load_classes("microworld:shape=stare")
    assert shapes.truth(["star", "circle"]).tolist() == [3, 0]
    groups = load_classes("microworld:group")
    rows = pa.concat_tables(list_images("microworld:n=60,seed=2,split=test"))
    assert [groups.names[i] for i in groups.truth(rows["group"].to_pylist())] == [
        f"{shape}/{background}"
        for shape, background in zip(
            rows["shape"].to_pylist(), rows["background"].to_pylist(), strict=True
        )
    ]
    star_on_snow = groups.prompts[groups.names.index("star/snow")]
    assert {"a star on snow", "a photo of stars in the snow"} < set(star_on_snow)
    assert microworld_attributes(star_on_snow[0]) == {"shape", "background"}
    with pytest.raises(PoolError, match="1 of 2 images have no label, the first at row 1"):
        shapes.truth(["star", None])
    with pytest.raises(PoolError, match=r"'stra' \(did you mean 'star'"):
        shapes.truth(["stra"])
    with pytest.raises(PoolError, match="missile"):
        imagenet.truth(["missile"])  # two classes have this name


def test_classes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("airplane\n1\tautomobile\n")
    classes = load_classes(file)
    assert classes.names == ("airplane", "automobile")
    assert classes.truth(["1", "airplane"]).tolist() == [1, 0]
    assert len(classes.prompts[0]) == len(open_clip.OPENAI_IMAGENET_TEMPLATES)
    for text in ("a\na\n", "\ta\n", "a\t\n", "0\ta\tb\n", "\ufeff"):
        file.write_text(text)
        with pytest.raises(PoolError, match="label twice, a label without a name, or more"):
            load_classes(file)
    with pytest.raises(PoolError, match="did you mean 'imagenet'"):
        load_classes("imagnet")
    with pytest.raises(PoolError, match="did you mean 'colour'"):
        load_classes("microworld:color")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_only_line_feeds_and_carriage_returns_end_a_line(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "classes.txt"
    rows = "0\ttabby cat\n1\tfire\u2028truck\r2\tice\x85cream\x0cvan\r\n3\tdog\n"
    file.write_bytes(rows.encode(encoding))
    classes = load_classes(file)
    assert classes.names == ("tabby cat", "fire truck", "ice cream van", "dog")
    assert list(classes.index) == ["0", "1", "2", "3"]
    file.write_bytes("a red\u2029house\n\ra blue\x0bcar\x1cparked".encode(encoding))
    pool = load_pool(file)
    assert (pool.texts, pool.blank) == (("a red house", "a blue car parked"), 1)


def test_embeddings_are_the_models_own_whatever_the_batch(
    tiny: tuple[open_clip.CLIP, open_clip.SimpleTokenizer],
) -> None:
    model, tokenizer = tiny
    texts = ["a dog", "a cat on a mat", "snow", "three red stars at night"]
    with torch.inference_mode():
        expected = model.encode_text(tokenizer(texts)).numpy()
    found = encode_texts(model, tokenizer, texts, batch=3, normalize=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    unit = encode_texts(model, tokenizer, texts)
    norms = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected / norms, rtol=1e-5, atol=1e-6)
    with pytest.raises(PoolError, match="empty"):
        encode_texts(model, tokenizer, [])


def test_a_class_is_the_mean_of_its_unit_prompts(
    tiny: tuple[open_clip.CLIP, open_clip.SimpleTokenizer],
) -> None:
    classes = load_classes("microworld:place")
    found = class_means(encode_texts(*tiny, classes.flat, batch=7), classes)
    for row, prompts in zip(found, classes.prompts, strict=True):
        mean = encode_texts(*tiny, prompts).mean(0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


def test_texts_over_the_context_length_are_counted(
    tiny: tuple[open_clip.CLIP, open_clip.SimpleTokenizer],
) -> None:
    # The start and the end are tokens too: ten words just fit into twelve.
    texts = ["dog " * 9, "dog " * 10, "dog " * 11, "dog " * 40]
    assert count_too_long(tiny[1], texts, 12) == 2
    assert count_too_long(tiny[1], [], 12) == 0
