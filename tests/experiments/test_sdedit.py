"""SDEdit from several start times."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.sdedit.__main__ import Starts, main
from jaxdiff.errors import UserError
from jaxdiff.images.files import read_image

pytestmark = pytest.mark.usefixtures("flat_faces")


@pytest.mark.thorough
def test_sdedit_from_several_starts(normal_prior, tmp_path, read_rows, monkeypatch, capsys):
    # Its network has no layers to look into; pixels stand for their features.
    monkeypatch.setattr("experiments.shared.realism.innermost", lambda network, x_t, t: x_t[:, ::4, ::4])
    config = Starts(
        prior=normal_prior,
        steps=8,
        seeds=5,
        starts=(500, 250, 250),
        tasks=("box",),
        references=10,
        out=tmp_path / "out",
    )
    main(config)
    rows = read_rows(config.out)
    assert [(row["start"], row["seed"]) for row in rows] == [(t, s) for t in ("250", "500") for s in "01234"]
    for row in rows:
        assert float(row["distance"]) == pytest.approx(0.05 * float(row["residual_ratio"]), rel=1e-4)
        assert np.isfinite(float(row["realism"]))
    assert read_image(config.out / "curve.png").std() > 0
    assert read_image(config.out / "figure.png").shape[1] > 4 * 128
    assert "realism" in (config.out / "table.md").read_text()
    assert "innermost layer" in (config.out / "report.html").read_text()

    capsys.readouterr()
    main(replace(config, resume=True))
    assert capsys.readouterr().out.count("continued from an earlier run") == 2
    assert read_rows(config.out) == rows


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"starts": ()}, "--starts"),
        ({"starts": (250, 1000)}, "from 0 to 999"),
        ({"references": 9}, "--references"),
        ({"tasks": ("boxx",)}, "did you mean 'box'"),
    ],
)
def test_sdedit_refuses_bad_flags_before_it_makes_a_folder(normal_prior, tmp_path, changes, match):
    with pytest.raises(UserError, match=match):
        main(replace(Starts(prior=normal_prior, out=tmp_path / "out"), **changes))
    assert not (tmp_path / "out").exists()
