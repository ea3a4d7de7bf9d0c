"""The script that compares precisions."""

import re

import pytest

from experiments.precision import Precision, main
from jaxdiff.errors import UserError

pytestmark = pytest.mark.usefixtures("flat_faces")


def test_every_precision_is_drawn_with_the_same_keys(normal_prior, tmp_path, read_rows, capsys):
    config = Precision(normal_prior, out=tmp_path / "out", seeds=2, steps=4, tasks=("box",), methods=("dps",))
    main(config)
    said = capsys.readouterr().out
    assert re.search(r"\| box inpainting \| DPS \| bfloat16 \| [\d.]+ \| [-+][\d.]+ ± [\d.]+ \| [\d.]+ \|", said)
    rows = read_rows(config.out)
    assert [row["seed"] for row in rows] == ["0", "1"]
    for row in rows:
        assert abs(float(row["psnr"]) - float(row["float32"])) < 1
        assert 20 < float(row["between"]) < 90  # the same noise, and not the same numbers


def test_an_unknown_precision_is_refused(normal_prior, tmp_path):
    config = Precision(normal_prior, out=tmp_path / "out", dtypes=("float16",))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="unknown precision 'float16'"):
        main(config)
    assert not (tmp_path / "out").exists()
