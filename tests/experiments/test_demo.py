"""What the demo shows, without its page and without gradio."""

import socket
import sys
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.demo import __main__ as demo
from experiments.demo.restorer import Question, Restorer, painted, read_upload
from experiments.shared.problems import load_truth
from jaxdiff.errors import UserError
from jaxdiff.images.files import write_image
from tests.conftest import TINY

SIZE = TINY.image_size


@pytest.fixture(scope="module")
def restorer(normal_prior):
    return Restorer(load_truth(normal_prior, None, 0, None)[0], steps=4)


def question(picture=0, rows=slice(4, 9), **changes):
    image = np.random.default_rng(picture).uniform(-0.9, 0.9, (SIZE, SIZE, 3)).astype(np.float32)
    hidden = np.zeros((SIZE, SIZE), bool)
    hidden[rows, 3:12] = True
    return replace(Question(image, hidden, method="sdedit", seeds=2), **changes)


def images(pictures):
    return np.stack([picture.image for picture in pictures])


def test_samples_grow_step_by_step_and_keep_what_is_known(restorer):
    asked = question()
    first, *steps, last = restorer.restorations(asked)
    assert "compiling" in first.status
    assert first.samples == []
    assert [view.status[:19] for view in steps] == ["SDEdit: step 1 of 2"]
    assert all("residual " in view.status and len(view.samples) == 2 for view in steps)
    samples, known = images(last.samples), ~asked.hidden
    np.testing.assert_array_equal(samples[:, known], np.stack([asked.image[known]] * 2))
    assert np.abs(samples[0] - samples[1])[asked.hidden].max() > 0.01
    measurement, mean, _ = images(last.others)
    np.testing.assert_array_equal(measurement, known[..., None] * asked.image)
    np.testing.assert_allclose(mean, samples.mean(0), atol=1e-6)
    assert "2 samples by SDEdit in 2 steps" in last.status
    assert "The samples miss the data by" in last.status
    assert "put back" in last.status


def test_another_picture_and_mask_compile_nothing_and_another_method_does(restorer, programs):
    list(restorer.restorations(question()))
    del programs[:]
    first, *_ = restorer.restorations(question(picture=1, rows=slice(0, 2), seed=3))
    assert "starting" in first.status
    assert programs == []
    assert "compiling" in next(restorer.restorations(question(method="dps"))).status
    first, *_ = restorer.restorations(question(seeds=3))
    assert "compiling" in first.status
    assert len(programs) == 1


def test_what_is_painted_over_plays_no_part(restorer):
    asked = question()
    other = replace(asked, image=np.where(asked.hidden[..., None], 0.3, asked.image).astype(np.float32))
    *_, last = restorer.restorations(asked)
    *_, same = restorer.restorations(other)
    np.testing.assert_array_equal(images(last.samples), images(same.samples))


def test_with_noise_the_residual_is_said_in_words(restorer):
    *_, last = restorer.restorations(question(sigma_y=0.1))
    assert "‖y − A x‖ / (σ √m) is" in last.status
    assert "put back" not in last.status
    assert np.abs(images(last.others)[0] - question().image)[~question().hidden].std() > 0.03


@pytest.mark.parametrize(("hidden", "match"), [(False, "hides no pixel; paint"), (True, "hides every pixel; paint")])
def test_nothing_and_everything_painted_is_one_sentence(restorer, hidden, match):
    with pytest.raises(UserError, match=match):
        next(restorer.restorations(question(hidden=np.full((SIZE, SIZE), hidden))))


def test_a_chain_that_diverges_is_one_sentence(restorer):
    schedule = replace(restorer.prior.schedule, log_alpha_bar=jnp.full(1001, jnp.nan))
    broken = Restorer(replace(restorer.prior, schedule=schedule), steps=4)
    with pytest.raises(UserError, match=r"SDEdit diverged .* by step 1; more --steps"):
        list(broken.restorations(question()))


def test_any_paint_on_a_pixel_hides_it():
    layers = np.zeros((2, 8 * SIZE, 8 * SIZE, 4), np.uint8)
    layers[..., :3] = 200
    layers[0, 8 * 5 + 7, 8 * 3, 3] = 1
    layers[1, 0:9, 8 * 7, 3] = 255
    assert np.argwhere(painted(list(layers), (SIZE, SIZE))).tolist() == [[0, 7], [1, 7], [5, 3]]
    assert not painted([], (SIZE, SIZE)).any()
    np.testing.assert_array_equal(demo.enlarge(np.zeros((SIZE, SIZE, 3), np.float32)).shape, (384, 384, 3))


def test_an_upload_is_cut_and_resized_aloud(tmp_path):
    write_image(tmp_path / "wide.png", np.zeros((40, 48, 3), np.float32))
    image, words = read_upload(tmp_path / "wide.png", (SIZE, SIZE))
    assert image.shape == (SIZE, SIZE, 3)
    assert words == "wide.png: 48x40 pixels; the central 40x40 are kept and resized to 16x16."
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (9, 30)).save(tmp_path / "small.png")
    for name, match in (("text.png", "^text.png is not an image"), ("small.png", "^small.png has 9x30 pixels, fewer")):
        with pytest.raises(UserError, match=match):
            read_upload(tmp_path / name, (SIZE, SIZE))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"port": 0}, "--port must be between 1 and 65535"),
        ({"host": "nowhere.invalid"}, r"cannot serve on nowhere.invalid:\d+ \(.+\); choose another --port or --host"),
        ({}, r"cannot serve on 127.0.0.1:\d+ \(Address already in use\); choose another --port"),
    ],
)
def test_an_address_that_cannot_be_served_on_is_one_sentence(changes, match):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match=match):
        demo.main(replace(demo.Config(port=taken.getsockname()[1]), **changes))


def test_without_gradio_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(
        UserError, match=r'^the demo needs gradio \(.*\); `pip install "jaxdiff\[demo\]"` installs it.$'
    ):
        demo.main(demo.Config(port=port))


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_outside_of_the_schedule_are_refused(restorer, steps):
    with pytest.raises(UserError, match="--steps must be between 1 and 1000"):
        Restorer(restorer.prior, steps)
