"""The script that compares precisions, on a tiny prior."""

import csv
import re

import pytest

from experiments.precision import Precision, main
from jaxdiff.errors import UserError
from tests.test_scripts import prior  # noqa: F401


def test_every_precision_is_drawn_with_the_same_keys(prior, tmp_path, capsys):  # noqa: F811
    config = Precision(prior=str(prior), out=tmp_path / "out", seeds=2, steps=4, tasks=("box",), methods=("dps",))
    main(config)
    said = capsys.readouterr().out
    assert re.search(r"\| box inpainting \| DPS \| bfloat16 \| [\d.]+ \| [-+][\d.]+ ± [\d.]+ \| [\d.]+ \|", said)
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1"]
    for row in rows:
        assert abs(float(row["psnr"]) - float(row["float32"])) < 1
        assert 20 < float(row["between"]) < 90  # the same noise, and not the same numbers


def test_an_unknown_precision_is_refused(prior, tmp_path):  # noqa: F811
    config = Precision(prior=str(prior), out=tmp_path / "out", dtypes=("float16",))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="unknown precision 'float16'"):
        main(config)
    assert not (tmp_path / "out").exists()
