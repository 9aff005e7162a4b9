"""Makes ``schema-1.tar.xz``: a small store as Facet made it before schema version 2.

To be run where that code is: ``git worktree add old a08742e``, then, from ``old``,
``python ../tests/storage/data/make_schema_1.py schema-1.tar.xz``. Six images, of which the second
shard's two are not done; one bad image; neurons of MLP layer 0 and reductions over the first shard.
"""

import shutil
import sys
import tempfile

import numpy as np

from pipeline.cluster import machines
from pipeline.stats.reductions import reduce_store
from storage import ledger, neurons, urls
from tests.storage import stores

folder = tempfile.mkdtemp()
store = stores.new_store(
    f"{folder}/store", images=6, layers=3, tokens=5, head_dim=2, width=4, mlp_width=3, embed=3
)
rows = stores.ledger_rows(store, 0, {2: "broken: for the test"})
values = stores.values(store, 0)
for array in values.values():
    if array.dtype != object:
        array[2] = np.nan
store.write_shard(0, values, rows, {"bad": {"broken": 1}})
neurons.create(store.url, store.meta, 0, ["peaks"], "float32")
group = urls.open_group(neurons.group_url(store.url, 0), mode="r+")
group["peaks"][:4] = np.where(np.arange(4) == 2, np.nan, np.arange(4))[:, None] + np.zeros(3)
neurons.finish_shard(store.url, 0, "peaks", 0, ledger.read_part(store.url, 0))
machines.work("here")
reduce_store(store, None)
shutil.make_archive(sys.argv[1].removesuffix(".tar.xz"), "xztar", folder, "store")
