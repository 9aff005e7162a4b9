"""What the explorer says of gains is what the job of ablations says of the edit that it saves."""

import numpy as np
import pytest

from jobs import ablate, pages
from jobs.ablate import AblateConfig
from pipeline.explorer.library import Library
from pipeline.explorer.scene import Asked
from pipeline.explorer.what_if import edit_file, what_if

GAINS = "3.0:0 2.1:1.75 mlp1:0.25 start:0.5 bias3:0"


@pytest.mark.usefixtures("here")
def test_accuracies_are_those_of_the_job_with_the_edit(neurons_kept, tmp_path):
    edit = tmp_path / "edit.json"
    library = Library([neurons_kept.url], [], pages.following)
    (opened,) = library.stores.values()
    classes = "microworld:shape"
    # It keeps the means of all images, and what the classes' texts are.
    plain = AblateConfig(neurons_kept.url, classes, study=("mlps",), workers="here")
    ablate.main(plain)
    edit.write_bytes(edit_file(opened, GAINS))
    rows = ablate.main(
        AblateConfig(neurons_kept.url, classes, edit=(str(edit),), workers="here")
    ).accuracy
    view = what_if(library, opened, Asked(classes, "label", "", ""), GAINS)
    assert view.changes > 0
    for figures, name in ((view.before, "none"), (view.after, f"edit: gains {view.gains}")):
        own = rows[rows["ablation"] == name]
        whole = own[own["scope"] == "all"].iloc[0]
        assert figures.whole.n == whole["n"] == 60
        assert figures.whole.share == pytest.approx(whole["accuracy"], abs=1e-12)
        for row in own[own["scope"] == "class"].itertuples():
            of_class = figures.by_class[view.classes.index(row.name)].rate
            assert (of_class.n, of_class.share) == (row.n, pytest.approx(row.accuracy, abs=1e-12))
    assert not library.model.state(opened).ready  # no model was needed
    np.testing.assert_equal(view.gains_s[view.parts.index("2.1")], 1.75)
