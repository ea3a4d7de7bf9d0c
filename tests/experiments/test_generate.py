"""Images from noise."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments import generate
from experiments.generate import Generate, main
from jaxdiff import DDIM, DDPM, sample_many, time_grid
from jaxdiff.errors import UserError
from jaxdiff.images.files import read_image
from jaxdiff.runs.runner import sample_keys


@pytest.mark.thorough
def test_generate_cuts_chains_without_changing_them_and_goes_on(normal_prior, tmp_path):
    config = Generate(
        prior=normal_prior, steps=4, ddim_steps=3, snapshots=(300,), seeds=2, batch_size=1, out=tmp_path / "results"
    )
    main(config)
    prior, keys = generate.load_prior(normal_prior), sample_keys(0, 2)
    for name, sampler, steps in (("ddpm", DDPM(prior), 4), ("ddim", DDIM(prior), 3)):
        times = np.unique([*time_grid(1000, steps), 300])[::-1]
        until = times[: list(times).index(300) + 1]
        for stage, part in (("t300", until), ("sample", times)):
            kept = np.load(config.out / "samples" / f"{name}_{stage}.npz")["samples"]
            np.testing.assert_allclose(kept, sample_many(sampler, keys, part, batch_size=1, segment=1), atol=1e-4)
            sample = read_image(config.out / "samples" / f"{name}_{stage}_1.png")
            np.testing.assert_allclose(sample, np.clip(kept[1], -1, 1), atol=1.01 / 255)
        assert (config.out / f"{name}.gif").read_bytes().startswith(b"GIF")
    written = json.loads((config.out / "config.json").read_text())
    assert written["steps"] == {"DDPM": 5, "DDIM": 4}
    assert not {"sigma", "face", "image"} & written["settings"].keys()
    assert (config.out / "report.html").read_text().count("data:image/gif") == 2

    figure = (config.out / "figure.png").read_bytes()
    (config.out / "samples" / "ddim_sample.npz").unlink()
    main(replace(config, resume=True))
    assert (config.out / "figure.png").read_bytes() == figure


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"snapshots": (999,)}, "--snapshots must be .* 0 to 998"),
        ({"snapshots": (-1,)}, "--snapshots"),
        ({"eta": 1.5}, "--eta"),
        ({"ddim_steps": 1001}, "--ddim-steps must be between 1 and 1000"),
        ({"methods": ("ddmp",)}, "did you mean 'ddpm'"),
    ],
)
def test_bad_flags_are_one_sentence_and_leave_nothing(normal_prior, tmp_path, changes, match):
    with pytest.raises(UserError, match=match) as error:
        main(Generate(prior=normal_prior, out=tmp_path / "results", **changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()
