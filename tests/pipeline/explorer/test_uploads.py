"""Pictures that are brought: who gets which, how many are held, and which are refused."""

import io
import threading

import pytest
from PIL import Image

from pipeline.explorer.errors import NotHere
from pipeline.explorer.uploads import FILE_BYTES, NAME_LENGTH, TooLarge, Uploads
from storage.errors import FacetError
from tests.pipeline.explorer.brought import picture


def test_two_users_do_not_overwrite_each_other():
    uploads = Uploads()
    one, two = uploads.add("a.png", picture("red")), uploads.add("a.png", picture("blue"))
    assert one.id != two.id
    assert uploads.get(one.id).data == picture("red")
    assert uploads.get(two.id).data == picture("blue")


def test_an_id_cannot_be_guessed_and_is_safe_in_an_address():
    ids = [Uploads().add("a", picture("red")).id for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(len(id) >= 22 and id.replace("-", "").replace("_", "").isalnum() for id in ids)


def test_what_was_not_looked_at_longest_goes_first():
    uploads = Uploads(most=2)
    one, two = (uploads.add("a", picture(c)) for c in ("red", "blue"))
    uploads.get(one.id)
    three = uploads.add("a", picture("green"))
    assert uploads.get(one.id)
    assert uploads.get(three.id)
    with pytest.raises(NotHere, match="Bring it again"):
        uploads.get(two.id)


def test_all_that_is_held_stays_within_its_bytes():
    size = len(picture("red"))
    uploads = Uploads(most_bytes=3 * size)
    ids = [uploads.add("a", picture("red")).id for _ in range(10)]
    held = [id for id in ids if id in uploads._held]
    assert held == ids[-3:]


@pytest.mark.parametrize("data", [b"", b"no picture", picture("red")[:40]])
def test_what_is_no_picture_is_refused_by_its_name(data):
    with pytest.raises(FacetError, match=r"^a\.png cannot be read: "):
        Uploads().add("a.png", data)


def test_a_picture_of_a_hundred_megapixels_is_refused_before_its_pixels_are_made():
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    with pytest.raises(FacetError, match="decompression bomb"):
        Uploads().add("a.png", file.getvalue())


def test_a_file_that_is_too_large_is_refused():
    with pytest.raises(TooLarge, match="at most 32 MiB"):
        Uploads().add("a.png", b"\0" * (FILE_BYTES + 1))


def test_a_name_is_one_short_printable_line():
    name = Uploads().add("../../etc\n\x1b[31m" + "x" * 500, picture("red")).name
    assert len(name) <= NAME_LENGTH
    assert name.isprintable()


def test_many_threads_bring_and_look_at_once():
    uploads, wrong = Uploads(most=50), []

    def visit(colour):
        data = picture(colour)
        for _ in range(10):
            if uploads.get(uploads.add("a", data).id).data != data:
                wrong.append(colour)

    threads = [threading.Thread(target=visit, args=(c,)) for c in ("red", "blue", "green")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
