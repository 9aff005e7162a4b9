"""What waits for the model is asked for again, also where answers are kept."""

import numpy as np
import pytest
from starlette.testclient import TestClient

from pipeline.explorer.library import Library
from pipeline.explorer.model import NotYet
from pipeline.explorer.web.app import make_app
from pipeline.explorer.web.serving import guarded
from tests.storage import stores


class Slow:
    """A model that is there from the second question on."""

    def __init__(self, embed):
        self.asked, self.embed = 0, embed

    def begin(self, *_):
        pass

    def ask(self, opened, function, texts):
        self.asked += 1
        if self.asked == 1:
            raise NotYet("the model is being loaded")
        return np.full((len(texts), self.embed), self.embed**-0.5, np.float32)


@pytest.mark.parametrize("under", ["", "/api"])
def test_a_page_that_waits_is_not_kept(tmp_path, under):
    url = stores.fill(stores.new_store(str(tmp_path / "one"))).url
    library = Library([url], [], lambda store, typed: {})
    library.model = Slow(library.stores["one"].meta.embed)
    app = guarded(make_app(library), library, "127.0.0.1", None)
    client = TestClient(app, base_url="http://127.0.0.1:8000")
    waits, found, again = (client.get(f"{under}/s/one/text?text=snow") for _ in range(3))
    assert "being loaded" in waits.text.lower()
    assert waits.headers["cache-control"] == "no-store"
    assert found.status_code == 200
    assert "being loaded" not in found.text.lower()
    assert again.headers["etag"] == found.headers["etag"]
    assert library.model.asked == 2
