"""Images on an object store (a real HTTP server that speaks S3) and listing on Ray."""

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from PIL import Image

from pipeline.cluster.tasks import each
from pipeline.images import files
from pipeline.images.decode import read_bytes
from pipeline.images.errors import SourceError, SourceUnavailable
from pipeline.images.listing import list_images
from pipeline.images.load import load_rows
from pipeline.images.masks import check_masks, parse_masks
from pipeline.images.resize import Resize
from pipeline.images.rows import ROW_ORIGIN, ListingReport
from storage.errors import FacetError
from tests import s3_kit
from tests.pipeline.images.kit import Listed, encode, masks_of, picture, png, write_tar


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("s3")
    with s3_kit.serve() as endpoint, s3_kit.used(endpoint) as url:
        client = boto3.client("s3")
        for t in range(2):
            path = write_tar(
                folder / f"{t:05d}.tar",
                [
                    (f"{i}.{s}", d)
                    for i in range(6)
                    for s, d in (("png", png(i)), ("txt", b"words"))
                ],
            )
            client.put_object(Bucket="bucket", Key=f"laion/{t:05d}.tar", Body=path.read_bytes())
        for name in ("n1/a.png", "n1/deep/b.png", "n2/c.png", "z.png"):
            client.put_object(Bucket="bucket", Key=f"train/{name}", Body=png(len(name)))
        yield url


@pytest.mark.parametrize("source", ["s3://me:hush@bucket/laion/*.tar", "s3://me:hu/sh@bucket/a"])
def test_credentials_in_a_url_are_refused(source: str) -> None:
    with pytest.raises(FacetError, match="credentials in it is refused") as caught:
        list_images(source)
    assert "hu" not in str(caught.value)


def transform(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((4, 4)))


def test_a_table_without_keys_is_told_alike_wherever_it_lies(s3: str, tmp_path: Path) -> None:
    pictures = [encode(picture(i, 60, 60), "BMP") for i in range(40)]
    pq.write_table(pa.table({"image": pictures}), tmp_path / "p.parquet")
    data = (tmp_path / "p.parquet").read_bytes()
    boto3.client("s3").put_object(Bucket="bucket", Key="tables/p.parquet", Body=data)
    here, there = (
        pa.concat_tables(list_images(f"{place}/p.parquet"))
        for place in (str(tmp_path), f"{s3}/tables")
    )
    assert here[ROW_ORIGIN].to_pylist() == there[ROW_ORIGIN].to_pylist()
    assert here[ROW_ORIGIN][0].as_py().startswith(f"{len(data)}-")


@pytest.mark.parametrize("pattern", ["{00000..00001}.tar", "*.tar"])
def test_tars_on_s3(s3: str, pattern: str) -> None:
    table = pa.concat_tables(list_images(f"{s3}/laion/{pattern}"))
    assert table["key"].to_pylist() == [f"{t:05d}/{i}" for t in range(2) for i in range(6)]
    assert table["uri"].to_pylist()[0] == "s3://bucket/laion/00000.tar"
    assert table["caption"].to_pylist() == ["words"] * 12
    assert read_bytes(table.to_pylist()[9]) == png(3)
    assert load_rows(table, transform, (4, 4)).ok.all()


def test_folders_on_s3(s3: str) -> None:
    table = pa.concat_tables(list_images(f"{s3}/train/"))
    assert table["key"].to_pylist() == ["z.png", "n1/a.png", "n1/deep/b.png", "n2/c.png"]
    assert table["label"].to_pylist() == [None, "n1", "n1", "n2"]
    assert table["length"].to_pylist()[0] == len(png(5))
    rows = table.to_pylist()
    assert read_bytes(rows[2]) == png(len("n1/deep/b.png"))
    gone = table.slice(0, 1).set_column(2, "uri", pa.array(["s3://bucket/train/gone.png"]))
    (error,) = load_rows(gone, transform, (4, 4)).error
    assert "does not exist" in str(error)


def test_masks_on_s3(s3: str) -> None:
    """Of objects of the same names with other suffixes, and of no others that begin alike."""
    client, masks = boto3.client("s3"), {}
    for i, name in enumerate(("z.png", "zz.png", "n1/a.tif", "n1/deep/b.png", "n1/deep/b.c.png")):
        masks[name.rpartition(".")[0]] = np.eye(6, 8, i, np.uint8)
        data = encode(
            Image.fromarray(masks[name.rpartition(".")[0]]), name[-3:].replace("tif", "TIFF")
        )
        client.put_object(Bucket="bucket", Key=f"masks/{name}", Body=data)
    rows, source = pa.concat_tables(list_images(f"{s3}/train/")), parse_masks(f"{s3}/masks")
    check_masks(Listed(rows), source)
    with pytest.raises(SourceError, match="none of the 1 pictures has a mask in s3://bucket/masks"):
        check_masks(Listed(rows.slice(3)), source)
    found = masks_of(rows, source, Resize(6, 8, "bicubic", "squash", 0), "aligned")
    assert found.error == [None, None, None, "no mask: s3://bucket/masks/n2/c.*"]
    for mask, name in zip(found.masks["aligned"], ("z", "n1/a", "n1/deep/b"), strict=False):
        np.testing.assert_array_equal(mask, masks[name])


ODD = ["x[1].png", "{a,b}.png", "a*b?.png", "a::b.png", "50%#.png", "s//two.png", "s/one.png",
       "/lead.png", "s"]  # fmt: skip


@pytest.fixture(scope="module")
def odd(s3: str) -> str:
    """Objects whose names are odd, each its own picture."""
    client = boto3.client("s3")
    for i, name in enumerate(ODD):
        client.put_object(Bucket="bucket", Key=f"odd/{name}", Body=png(i))
    for name, body in [("t/", b""), ("d.png/", png(0)), (".hid/z.png", png(0)), ("n.txt", b"")]:
        client.put_object(Bucket="bucket", Key=f"odd/{name}", Body=body)
    return f"{s3}/odd"


def test_every_object_below_a_prefix_is_listed_or_named(odd: str) -> None:
    report = ListingReport()
    table = pa.concat_tables(list_images(odd, report=report))
    assert sorted(table["key"].to_pylist()) == sorted(set(ODD) - {"s"})
    for row in table.to_pylist():
        assert read_bytes(row) == png(ODD.index(row["key"]))
        assert row["label"] == ("s" if row["key"].startswith("s/") else None)
    assert report.counts == {
        "object whose name ends in /, as those that stand for folders": 2,
        "hidden file or folder": 1,
        "not an image file": 2,
    }
    report = ListingReport()
    table = pa.concat_tables(list_images(f"{odd}/s", report=report))  # an object and a folder
    assert table["key"].to_pylist() == ["one.png", "/two.png"]
    assert [read_bytes(row) for row in table.to_pylist()] == [png(6), png(5)]


@pytest.mark.parametrize("name", ["x[1].png", "{a,b}.png", "a*b?.png", "a::b.png", "s//two.png"])
def test_an_object_is_taken_as_it_is_named(odd: str, name: str) -> None:
    (row,) = pa.concat_tables(list_images(f"{odd}/{name}")).to_pylist()
    assert (row["uri"], read_bytes(row)) == (f"{odd}/{name}", png(ODD.index(name)))


def test_braces_around_names_with_wildcards(odd: str) -> None:
    table = pa.concat_tables(list_images(odd + "/{x[1],5?%#,s/*}.png"))
    assert table["uri"].to_pylist() == [f"{odd}/{n}" for n in ("50%#.png", "x[1].png", "s/one.png")]


def test_what_is_missing_on_s3_is_refused(s3: str) -> None:
    with pytest.raises(SourceError, match="1 of 2 paths do not exist: s3://bucket/laion/00002.tar"):
        list_images(f"{s3}/laion/{{00001..00002}}.tar")
    with pytest.raises(SourceError, match=r"nothing matches s3://bucket/laion/\*.parquet"):
        list_images(f"{s3}/laion/*.parquet")
    with pytest.raises(SourceError, match=r"name the bucket; wildcards may stand after it"):
        list_images("s3://buck*/laion")


def test_a_scheme_of_another_name(s3: str) -> None:
    table = pa.concat_tables(list_images("s3a://bucket/train/n*/*.png"))
    assert table["key"].to_pylist() == ["n1/a.png", "n2/c.png"]
    assert read_bytes(table.to_pylist()[1]) == png(len("n2/c.png"))


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3_kit.Proxy]:
    """Faults on the way to the server; the client asks once."""
    monkeypatch.setattr(files, "FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with s3_kit.proxy(os.environ["AWS_ENDPOINT_URL"]) as state:
        monkeypatch.setenv("AWS_ENDPOINT_URL", state.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        yield state
    s3fs.S3FileSystem.clear_instance_cache()


def objects(names: list[str], folder: Path) -> pa.Table:
    """Rows of a table of addresses of objects."""
    pq.write_table(pa.table({"url": names}), folder / "t.parquet")
    return pa.concat_tables(list_images(str(folder / "t.parquet")))


@pytest.mark.parametrize("status", [403, 500, 503])
def test_what_an_object_store_answers_of_one_object_is_that_images_fault(
    proxy: s3_kit.Proxy, tmp_path: Path, status: int
) -> None:
    names = ["n1/a.png", "z.png", "n2/c.png", "gone.png", "n1/deep/b.png"]
    table = objects([f"s3://bucket/train/{name}" for name in names], tmp_path)
    proxy.faults = [s3_kit.Fault("GET", status, part="z.png")]
    loaded = load_rows(table, transform, (4, 4))
    assert loaded.ok.tolist() == [True, False, True, False, True]
    code = s3_kit.CODES[status]
    assert loaded.error[1] == f"HTTP {status}: s3://bucket/train/z.png, {code}"
    assert str(loaded.error[3]).startswith("does not exist: ")


def test_an_object_store_that_fails_on_and_on_is_no_images_fault(
    proxy: s3_kit.Proxy, tmp_path: Path
) -> None:
    table = objects([f"s3://bucket/train/{n}.png" for n in "zzzz"], tmp_path)
    proxy.faults = [s3_kit.Fault("GET", 503)]
    with pytest.raises(SourceUnavailable, match="s3://bucket failed for 3 images one after the"):
        load_rows(table, transform, (4, 4))


@pytest.mark.parametrize(
    ("names", "value", "words"),
    [
        (["AWS_ENDPOINT_URL"], "http://127.0.0.1:9", "Could not connect to the endpoint URL"),
        (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], None, "Unable to locate credentials"),
    ],
)
def test_an_object_store_that_cannot_be_asked_stops(
    proxy: s3_kit.Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names, value, words
) -> None:
    table = objects(["s3://bucket/train/z.png"], tmp_path)
    for name in names:
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SourceUnavailable, match=f"s3://bucket/train/z.png cannot be .*{words}"):
        load_rows(table, transform, (4, 4))


def test_an_unknown_user_is_no_images_fault(
    proxy: s3_kit.Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(s3_kit.CODES, 403, "ExpiredToken")
    table = objects(["s3://bucket/train/z.png"], tmp_path)
    proxy.faults = [s3_kit.Fault("GET", 403)]
    with pytest.raises(SourceUnavailable, match="ExpiredToken"):
        load_rows(table, transform, (4, 4))


def test_a_tar_that_is_refused_is_no_images_fault(proxy: s3_kit.Proxy) -> None:
    table = pa.concat_tables(list_images("s3://bucket/laion/00000.tar"))
    proxy.faults = [s3_kit.Fault("HEAD", 403), s3_kit.Fault("GET", 403)]
    with pytest.raises(SourceUnavailable, match="s3://bucket/laion/00000.tar cannot be read"):
        load_rows(table, transform, (4, 4))


def test_ray_lists_in_order_and_keeps_messages(ray_cluster: None, tmp_path: Path) -> None:
    for t in range(12):
        write_tar(tmp_path / f"{t:02d}.tar", [(f"{i}.png", png(i)) for i in range(t + 1)])
    here = pa.concat_tables(list_images(f"{tmp_path}/*.tar"))
    assert pa.concat_tables(list_images(f"{tmp_path}/*.tar", mapper=each)) == here
    few = pa.concat_tables(list_images(f"{tmp_path}/*.tar", mapper=each, limit=5))
    assert few == here.slice(0, 5)
    (tmp_path / "05.tar").write_text("no tar " * 200)
    with pytest.raises(SourceError, match="05.tar is not a tar") as caught:
        list(list_images(f"{tmp_path}/*.tar", mapper=each))
    assert type(caught.value) is SourceError
