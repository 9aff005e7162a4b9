"""Stores on a real server that speaks S3, through a proxy that counts, fails, hangs and cuts."""

import json
import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
import s3fs
import xarray as xr
import zarr
from moto.s3.models import s3_backends

from storage import arrays, ledger, open_store, urls
from storage.errors import StoreError, StoreMismatch
from storage.layout import CONTRIBUTIONS, LEDGER, contribution_arrays
from storage.objects import S3FS_ATTEMPTS, ObjectError, naming
from storage.results import latest_result, read_index, save_result
from storage.store import create_store
from storage.views import find_metadata
from storage.zarr_objects import ObjectStore
from tests import s3_kit
from tests.s3_kit import Fault, Proxy
from tests.storage import stores

AGAIN = r"Finished shards and results are kept: .* run the same command again"


@pytest.fixture(scope="module")
def server():
    with (
        s3_kit.serve() as upstream,
        s3_kit.proxy(upstream) as proxy,
        s3_kit.used(proxy.endpoint),
    ):
        yield proxy


@pytest.fixture
def proxy(server) -> Proxy:
    server.clear()
    yield server
    server.clear()


@pytest.fixture
def place(proxy, request) -> str:
    return f"s3://{s3_kit.BUCKET}/{re.sub('[^a-z0-9]+', '-', request.node.name)}"


@pytest.fixture
def attempts(monkeypatch):
    """Set how often S3 is asked, as a user does."""

    def ask(times: int, timeout_s: float = 10) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", str(times))
        config = {"config_kwargs": {"read_timeout": timeout_s}}
        monkeypatch.setitem(fsspec.config.conf, "s3", config)
        s3fs.S3FileSystem.clear_instance_cache()

    yield ask
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_on_s3_is_the_store_on_a_disk(place, tmp_path):
    far, near = (stores.fill(stores.new_store(u)) for u in (place, str(tmp_path / "s")))
    assert far.validate() == []
    xr.testing.assert_identical(far.contributions().load(), near.contributions().load())
    xr.testing.assert_identical(far.model(), near.model())
    np.testing.assert_array_equal(far.heads(1, 2).values, near.heads(1, 2).values)
    assert far.images(2, 7).equals(near.images(2, 7))
    assert far.ledger().equals(near.ledger())
    assert far.done_shards() == {0, 1, 2}
    assert far.size().keys() == near.size().keys()
    result = save_result(far.url, "j", {"a": 1}, {}, arrays={"x": xr.Dataset({"y": ("z", [1.0])})})
    assert latest_result(far.url, "j").config == result.config
    assert read_index(far.url)["address"].to_pylist() == [f"results/j/{result.name}"]
    assert float(latest_result(far.url, "j").arrays("x")["y"][0]) == 1


def test_a_name_with_wildcards_is_only_a_name(place):
    odd, other = (stores.fill(stores.new_store(f"{place}/{n}")) for n in ("s[1]::*?", "s1::xx"))
    assert odd.validate() == []
    group = zarr.open_group(ObjectStore.at(odd.url, read_only=False), mode="a")
    group.create_array("x", shape=(4,), chunks=(1,), dtype="f4", fill_value=0)[:] = 1
    group["x"][0] = 0  # a chunk of nothing but the fill value is removed
    group.create_array("x", shape=(4,), dtype="f4", overwrite=True)
    urls.remove(urls.join(odd.url, LEDGER, "part-00000000.parquet"))
    assert odd.done_shards() == {1, 2}
    urls.remove(odd.url)
    assert urls.list_names(odd.url) == []
    assert other.validate() == []
    assert other.done_shards() == {0, 1, 2}


def test_plain_xarray_reads_it_over_s3(place, proxy):
    store = stores.fill(stores.new_store(place))
    endpoint = {"endpoint_url": proxy.endpoint}
    data = xr.open_zarr(f"{place}/{CONTRIBUTIONS}", storage_options=endpoint)
    xr.testing.assert_identical(data.load(), store.contributions().load())
    assert data["heads"].dims == ("image", "layer", "head", "head_dim")


def test_an_end_longer_than_its_object_is_the_object(place, proxy):
    """Some servers, rclone's among them, refuse a range that begins before the object does."""
    for name in ("a", "b"):
        urls.put_bytes(f"{place}/{name}", name.encode() * 5)
    proxy.faults = [Fault("GET", 416, times=1, part="/b")]
    assert urls.read_tails([f"{place}/a", f"{place}/b"], 100) == [b"aaaaa", b"bbbbb"]
    assert urls.read_tails([f"{place}/a"], 2) == [b"aa"]
    with pytest.raises(FileNotFoundError):
        urls.read_tails([f"{place}/a", f"{place}/c"], 100)


def test_requests(place, proxy):
    """The figures of docs/object-stores.md."""
    store = stores.new_store(place)
    stores.fill(store, [0])  # also opens the group
    proxy.clear()
    stores.fill(store, [1])
    n = len(store.arrays)
    assert proxy.seen == {"PUT": n + 1, "GET": 2 * n}
    proxy.clear()
    opened = open_store(place)
    assert proxy.seen == {"HEAD": 1, "GET": 1}
    proxy.clear()
    opened.contributions()
    assert proxy.seen == {"GET": 4}
    proxy.clear()
    opened.done_shards()
    assert proxy.seen == {"LIST": 1}


def test_done_shards_is_one_listing_in_pages(place, proxy):
    store = stores.new_store(place)
    (backend,) = s3_backends["123456789012"].values()
    folder = place.removeprefix(f"s3://{s3_kit.BUCKET}/")
    for shard in range(2_500):
        backend.put_object(s3_kit.BUCKET, f"{folder}/ledger/part-{shard:08d}.parquet", b"")
    proxy.clear()
    assert store.done_shards() == set(range(2_500))
    assert proxy.seen == {"LIST": 3}


@pytest.fixture(scope="module")
def base(server) -> str:
    """A store whose shard 0 is finished."""
    return stores.fill(stores.new_store(f"s3://{s3_kit.BUCKET}/base"), [0]).url


# Every kind of request, through our own calls and through zarr's.
OPERATIONS = {
    "put": ("PUT", lambda store: urls.put_bytes(f"{store.url}/new", b"x" * 100)),
    "get": ("GET", lambda store: urls.read_bytes(ledger.part_url(store.url, 0))),
    "head": ("HEAD", lambda store: find_metadata(store.url).digest()),
    "list": ("LIST", lambda store: store.done_shards()),
    "remove": ("POST", lambda store: urls.remove(ledger.part_url(store.url, 1))),
    "ledger": ("GET", lambda store: store.ledger().slice(0, 4).to_pylist()),
    "images": ("GET", lambda store: store.images(2, 5).to_pylist()),
    "zarr put": ("PUT", lambda store: stores.fill(store, [1]).done_shards()),
    "zarr get": ("GET", lambda store: float(store.contributions()["heads"][:4].sum())),
    "zarr open": ("GET", lambda store: sorted(store.model())),
}
PASSING = [(name, how) for name in OPERATIONS for how in (500, 503)]
PASSING += [(name, "cut") for name, (kind, _) in OPERATIONS.items() if kind == "GET"]
PASSING += [("put", "hang"), ("zarr get", "hang")]


@pytest.mark.parametrize(("name", "how"), PASSING)
def test_a_passing_fault_is_not_noticed(name, how, base, proxy, attempts):
    kind, act = OPERATIONS[name]
    if how == "hang":
        attempts(3, timeout_s=2)
    want = act(stores.fill(open_store(base, mode="r+"), [1] if name == "remove" else []))
    store = stores.fill(open_store(base, mode="r+"), [1] if name == "remove" else [])
    proxy.faults = [Fault(kind, how, times=1)]
    got = act(store)
    assert proxy.faults[0].times == 0, "the fault never met a request"
    assert got == want


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_lasting_fault_names_the_object(name, base, proxy, attempts):
    attempts(1)
    kind, act = OPERATIONS[name]
    store = stores.fill(open_store(base, mode="r+"), [1] if name == "remove" else [])
    proxy.faults = [Fault(kind, 500)]
    with pytest.raises(ObjectError, match=AGAIN) as caught:
        act(store)
    assert base in str(caught.value)
    assert re.search("InternalError|Internal Server Error|500", str(caught.value))


def test_a_shard_that_cannot_be_put_is_done_by_the_next_run(place, proxy, attempts):
    attempts(2)
    store = stores.fill(stores.new_store(place), [0])
    proxy.faults = [Fault("PUT", 503, part="/mlps/")]
    with pytest.raises(ObjectError, match=rf"{place}/contributions.zarr/mlps/c/1/0/0 cannot be wr"):
        stores.fill(store, [1])
    assert store.done_shards() == {0}
    proxy.clear()
    stores.fill(open_store(place, mode="r+"), [1, 2])
    assert store.validate() == []


def test_attempts_are_counted_once_and_the_users_hold(place, proxy, attempts):
    """The layers of retries must not multiply: 5 x 5 x 15 s of hanging would be minutes."""
    for fault, asked, want in ((500, 3, 3), (503, 1, S3FS_ATTEMPTS), ("hang", 1, S3FS_ATTEMPTS)):
        attempts(asked, timeout_s=1)
        proxy.clear()
        proxy.faults = [Fault("PUT", fault)]
        with pytest.raises(ObjectError):
            urls.put_bytes(f"{place}/x", b"x")
        assert proxy.seen["PUT"] == want, fault


def test_retries_where_the_user_has_set_none(place, monkeypatch, tmp_path):
    fs, _ = urls.filesystem(place)
    assert fs.config_kwargs["retries"] == {"total_max_attempts": 8, "mode": "standard"}
    assert ObjectStore.at(place, True).fs.config_kwargs == fs.config_kwargs
    (tmp_path / "config").write_text("[default]\nmax_attempts = 4\nretry_mode = adaptive\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert urls.filesystem(place)[0].config_kwargs["retries"] == {}
    monkeypatch.setitem(
        fsspec.config.conf, "s3", {"config_kwargs": {"retries": {"mode": "legacy"}}}
    )
    assert urls.filesystem(place)[0].config_kwargs["retries"] == {"mode": "legacy"}


def test_an_error_is_never_taken_for_no_store(place, proxy, attempts):
    attempts(1)
    store = stores.fill(stores.new_store(place))
    for kind in ("HEAD", "GET"):
        proxy.faults = [Fault(kind, 500)]
        with pytest.raises(ObjectError):
            find_metadata(place)
    proxy.faults = [Fault("LIST", 500)]
    with pytest.raises(ObjectError):
        store.done_shards()
    proxy.clear()
    assert store.validate() == []


@pytest.mark.parametrize("mistake", [TypeError, AttributeError, KeyError])
def test_a_mistake_of_the_code_is_not_the_object_stores(mistake):
    with pytest.raises(mistake), naming("s3://b/x", "read"):
        raise mistake("of the code")
    with pytest.raises(ObjectError, match=AGAIN), naming("s3://b/x", "read"):
        raise RuntimeError("of a client")


def test_no_permission_no_bucket_and_no_server_say_so(place, proxy, attempts, monkeypatch):
    attempts(1)
    proxy.faults = [Fault("PUT", 403)]
    with pytest.raises(StoreError, match=rf"cannot write to {place}: .*AccessDenied"):
        urls.check_writable(place)
    proxy.clear()
    with pytest.raises(StoreError, match=r"s3://no-such/s: .*bucket does not exist"):
        urls.check_writable("s3://no-such/s")
    with pytest.raises(StoreError, match=r"no store at s3://no-such/s"):
        open_store("s3://no-such/s")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ObjectError, match=r"s3://b/s/.*zarr.json cannot be looked up.*127.0.0.1:9"):
        open_store("s3://b/s")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    s3fs.S3FileSystem.clear_instance_cache()
    said = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    with pytest.raises(StoreError, match=rf"cannot write to s3://b/s: .*{said}"):
        urls.check_writable("s3://b/s")
    with pytest.raises(ObjectError, match=said):
        open_store("s3://b/s")


def test_what_an_object_store_refuses_for_says_what_to_do(proxy, attempts, monkeypatch):
    attempts(1)
    proxy.faults = [Fault("PUT", 403)]
    with pytest.raises(StoreError, match=r"no right to it") as caught:
        urls.check_writable(f"s3://{s3_kit.BUCKET}/s")
    assert "permissions" not in str(caught.value)
    proxy.clear()
    with pytest.raises(StoreError, match=r"Make the bucket, or mend its name"):
        urls.check_writable("s3://no-such/s")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=r"Nothing answers there: .*AWS_ENDPOINT_URL"):
        urls.check_writable("s3://b/s")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s4://b/x", r"nothing reads or writes s4://; did you mean s3://b/x\?"),
        ("S3://b/x", r"did you mean s3://b/x\?"),
        ("foo://b/x", r"nothing reads or writes foo://\. Give .* s3://bucket/"),
        ("s3:/b/x", r"lacks slashes: write s3://b/x"),
        ("gs:b/x", r"lacks slashes: write gs://b/x"),
        ("file:/tmp/x", r"write file:///tmp/x"),
        ("", "an empty path names no place"),
    ],
)
def test_places_that_nothing_can_write_are_refused_by_name(url, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for ask in (urls.absolute, urls.check_writable, open_store):
        with pytest.raises(StoreError, match=words):
            ask(url)
    assert not list(tmp_path.iterdir())


def test_one_place_has_one_name(tmp_path, monkeypatch):
    (tmp_path / "far" / "inside").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far" / "inside")
    monkeypatch.chdir(tmp_path / "here")
    for name in ("../s", "./.././s/", f"{tmp_path}//s", f"file://{tmp_path}/s", f"{tmp_path}/s/"):
        assert urls.absolute(name) == str(tmp_path / "s")
    assert urls.absolute("s3://bucket/s/") == "s3://bucket/s"
    urls.put_bytes("link/../x", b"x")
    assert (tmp_path / "far" / "x").read_bytes() == b"x"
    assert not (tmp_path / "here" / "x").exists()


def test_a_colon_is_only_a_character_of_a_local_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    urls.check_writable("run:7")
    urls.put_bytes("run:7/x", b"x")
    assert urls.read_bytes(str(tmp_path / "run:7" / "x")) == b"x"


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA123:topsecret@bucket/store",
        "s3://AKIA123:top/secret@bucket/store",
        "s3://topsecret@bucket/store",
        "gs://topsecret@bucket/store",
        "https://me:topsecret@host/store",
        "https://host/a.tar?X-Amz-Credential=topsecret&X-Amz-Signature=topsecret",
        "https://host/a.tar?sv=1&sig=topsecret",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url):
    for ask in (open_store, urls.filesystem, urls.read_bytes, urls.check_writable):
        with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID") as caught:
            ask(url)
        assert "topsecret" not in str(caught.value)
        assert "AKIA123" not in str(caught.value)


def test_urls_without_credentials_pass(tmp_path):
    for url in (
        "s3://bucket/a@b:c/[0-9].tar",
        "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/mine/x",
        "https://host:8080/x?page=2",
        "abfs://container@account.dfs.core.windows.net/x",
        str(tmp_path / "me:secret@home"),
    ):
        assert urls.absolute(url) == url


def test_a_pickled_zarr_store_is_a_url(place, monkeypatch):
    store = stores.fill(stores.new_store(place))
    monkeypatch.setitem(fsspec.config.conf, "s3", {"key": "k", "secret": s3_kit.SECRET})
    s3fs.S3FileSystem.clear_instance_cache()
    far = ObjectStore.at(f"{place}/{CONTRIBUTIONS}", read_only=True)
    assert far.fs.secret == s3_kit.SECRET
    told = pickle.dumps([far, open_store(place).contributions()])
    assert s3_kit.SECRET.encode() not in told
    again, data = pickle.loads(told)
    assert again == far
    assert again.read_only
    xr.testing.assert_identical(data.load(), store.contributions().load())
    s3fs.S3FileSystem.clear_instance_cache()


def test_read_only_cannot_write(place):
    stores.fill(stores.new_store(place), [0])
    store = open_store(place)
    with pytest.raises(StoreError, match="opened read-only"):
        stores.fill(store, [1])
    group = urls.open_group(f"{place}/{CONTRIBUTIONS}", mode="r")
    assert group.store.read_only
    with pytest.raises(ValueError, match="read-only"):
        group["ln_std"][:] = 0
    assert store.done_shards() == {0}


def test_drivers_that_create_and_write_at_once_lose_nothing(place, tmp_path):
    def drive(order: list[int]) -> None:
        store = stores.new_store(place)
        for shard in order:
            stores.fill(store, [shard])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(drive, ([0, 1, 2], [2, 1, 0], [1, 2, 0])))
    store = open_store(place)
    assert store.validate() == []
    alone = stores.fill(stores.new_store(str(tmp_path / "s")))
    xr.testing.assert_identical(store.contributions().load(), alone.contributions().load())


@pytest.mark.parametrize("far", [False, True], ids=["disk", "s3"])
def test_a_slower_creator_does_not_wipe_what_a_faster_one_wrote(far, place, tmp_path):
    url = place if far else str(tmp_path / "s")
    store = stores.fill(stores.new_store(url), [0, 1])
    # A driver that looked before the store was there arrives where it creates the arrays.
    attributes = {"facet": store.meta.to_json(), "coordinates": "key label"}
    specs = contribution_arrays(store.meta)
    arrays.create_group(f"{url}/{CONTRIBUTIONS}", specs, attributes)
    assert stores.fill(open_store(url, mode="r+"), [2]).validate() == []
    other = stores.metadata(precision="bf16")
    with pytest.raises(StoreMismatch, match="precision"):
        create_store(url, other, {})
    urls.remove(f"{url}/{CONTRIBUTIONS}/zarr.json")
    with pytest.raises(StoreError, match=r"3 finished shards, but nothing says of what"):
        stores.new_store(url)


def test_the_mark_of_a_created_store_comes_last_and_whole(place, proxy, attempts):
    attempts(1)
    proxy.faults = [Fault("PUT", 500, part=f"/{CONTRIBUTIONS}/zarr.json")]
    with pytest.raises(ObjectError):
        stores.new_store(place)
    puts = [t for t in proxy.targets if t.startswith("PUT") and CONTRIBUTIONS in t]
    assert puts[-1].endswith(f"/{CONTRIBUTIONS}/zarr.json")
    assert find_metadata(place) is None
    proxy.clear()
    stores.new_store(place)
    marks = [t for t in proxy.targets if t == puts[-1]]
    assert len(marks) == 1
    mark = json.loads(urls.read_bytes(f"{place}/{CONTRIBUTIONS}/zarr.json"))
    assert mark["attributes"]["facet"]["schema_version"] == 4
    assert "heads" in mark["consolidated_metadata"]["metadata"]
