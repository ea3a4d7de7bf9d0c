"""What the demo shows, without its page and without gradio."""

import socket
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.demo import __main__ as demo
from experiments.demo.pictures import examples, painted, read_upload, to_canvas
from experiments.demo.restorer import Question, Restorer, needed_memory, pose, size_text
from experiments.shared.problems import load_truth
from jaxdiff import load_prior
from jaxdiff.errors import UserError
from jaxdiff.images.files import read_image, write_image
from jaxdiff.images.photo import Photo, read_photo
from tests.conftest import TINY

SIZE = TINY.image_size


@pytest.fixture(scope="module")
def restorer(normal_prior):
    return Restorer(load_truth(normal_prior, None, 0, None)[0], steps=4)


def question(picture=0, rows=slice(4, 9), **changes):
    samples = np.random.default_rng(picture).integers(10, 240, (SIZE, SIZE, 3)).astype(np.uint8)
    hidden = np.zeros((SIZE, SIZE), bool)
    hidden[rows, 3:12] = True
    return replace(Question(Photo(Path("photo.png"), samples), hidden, method="sdedit", seeds=2), **changes)


def images(pictures):
    return np.stack([picture.image for picture in pictures])


def test_samples_grow_step_by_step_and_keep_what_is_known(restorer, tmp_path):
    asked = question()
    first, *steps, last = restorer.restorations(asked, tmp_path)
    assert "compiling" in first.status
    assert first.samples == []
    assert [view.status[:19] for view in steps] == ["SDEdit: step 1 of 2"]
    assert all("residual " in view.status and len(view.samples) == 2 for view in steps)
    samples, known = images(last.samples), ~asked.hidden
    np.testing.assert_array_equal(samples[:, known], np.stack([asked.photo.x[known]] * 2))
    assert np.abs(samples[0] - samples[1])[asked.hidden].max() > 0.01
    measurement, mean, _ = images(last.others)
    np.testing.assert_array_equal(measurement, known[..., None] * asked.photo.x)
    np.testing.assert_allclose(mean, samples.mean(0), atol=1e-6)
    assert "2 samples by SDEdit in 2 steps" in last.status
    assert "The samples miss the data by" in last.status
    assert "put back" in last.status
    assert [path.name for path in last.files] == ["restored.png", "restored_0.png", "restored_1.png"]
    assert np.abs(read_image(last.files[1]) - samples[0]).max() <= 1.01 / 255


def test_another_picture_and_mask_compile_nothing_and_another_method_does(restorer, programs, tmp_path):
    list(restorer.restorations(question(), tmp_path))
    del programs[:]
    first, *_ = restorer.restorations(question(picture=1, rows=slice(0, 2), seed=3), tmp_path)
    assert "starting" in first.status
    assert programs == []
    assert "compiling" in next(restorer.restorations(question(method="dps"), tmp_path)).status
    first, *_ = restorer.restorations(question(seeds=3), tmp_path)
    assert "compiling" in first.status
    assert len(programs) == 1


def test_what_is_painted_over_plays_no_part(restorer, tmp_path):
    asked = question()
    painted_over = np.where(asked.hidden[..., None], 160, asked.photo.samples).astype(np.uint8)
    *_, last = restorer.restorations(asked, tmp_path)
    *_, same = restorer.restorations(replace(asked, photo=replace(asked.photo, samples=painted_over)), tmp_path)
    np.testing.assert_array_equal(images(last.samples), images(same.samples))


def test_with_noise_the_residual_is_said_in_words(restorer, tmp_path):
    *_, last = restorer.restorations(question(sigma_y=0.1), tmp_path)
    assert "‖y − A x‖ / (σ √m) is" in last.status
    assert "put back" not in last.status
    assert np.abs(images(last.others)[0] - question().photo.x)[~question().hidden].std() > 0.03


@pytest.mark.parametrize(("hidden", "match"), [(False, "hides no pixel; paint"), (True, "hides every pixel; paint")])
def test_nothing_and_everything_painted_is_one_sentence(restorer, hidden, match, tmp_path):
    with pytest.raises(UserError, match=match):
        next(restorer.restorations(question(hidden=np.full((SIZE, SIZE), hidden)), tmp_path))


def test_a_chain_that_diverges_is_one_sentence(restorer, tmp_path):
    schedule = replace(restorer.prior.schedule, log_alpha_bar=jnp.full(1001, jnp.nan))
    broken = Restorer(replace(restorer.prior, schedule=schedule), steps=4)
    with pytest.raises(UserError, match=r"SDEdit diverged .* by step 1; more --steps"):
        list(broken.restorations(question(), tmp_path))


def test_any_paint_on_a_pixel_hides_it():
    layers = np.zeros((2, 8 * SIZE, 8 * SIZE, 4), np.uint8)
    layers[..., :3] = 200
    layers[0, 8 * 5 + 7, 8 * 3, 3] = 1
    layers[1, 0:9, 8 * 7, 3] = 255
    assert np.argwhere(painted(list(layers), (SIZE, SIZE))).tolist() == [[0, 7], [1, 7], [5, 3]]
    assert not painted([], (SIZE, SIZE)).any()


def test_a_canvas_is_a_whole_number_of_times_larger_or_smaller_and_paint_goes_back():
    sizes = {(16, 16): (512, 512), (257, 333): (257, 333), (600, 1500): (200, 500)}
    for size, expected in sizes.items():
        assert to_canvas(Photo(Path("x.png"), np.zeros((*size, 3), np.uint8))).shape == (*expected, 3)
    layer = np.zeros((2, 5, 4), np.uint8)
    layer[1, 2] = 1
    assert np.argwhere(painted([layer], (6, 15))).tolist() == [[r, c] for r in (3, 4, 5) for c in (6, 7, 8)]


def test_an_upload_is_read_at_its_own_size_and_what_becomes_of_it_said(restorer, tmp_path):
    write_image(tmp_path / "wide.png", np.zeros((40, 48, 3), np.float32))
    photo, words = read_upload(tmp_path / "wide.png", restorer.prior)
    assert photo.samples.shape == (40, 48, 3)
    assert words == "wide.png: 48x40 pixels; the central 40x40 are kept and resized to 16x16."
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (9, 30)).save(tmp_path / "small.png")
    for name, match in (("text.png", "^text.png is not an image"), ("small.png", "^small.png has 9x30 pixels, fewer")):
        with pytest.raises(UserError, match=match):
            read_upload(tmp_path / name, restorer.prior)
    Image.new("1", (4100, 4100)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match=r"^large\.png has 4100x4100 pixels, more than the 17 million"):
        read_upload(tmp_path / "large.png", restorer.prior)


@pytest.fixture(scope="module")
def photos():
    return Restorer(load_prior("photos"), steps=1)


def large(hidden, **changes):
    return Question(Photo(Path("photo.png"), np.zeros((*hidden.shape, 3), np.uint8)), hidden, "ddnm", **changes)


def test_a_photo_is_restored_at_its_own_odd_size_and_only_around_the_paint(photos, tmp_path):
    """Known pixels come back bit for bit, on the page and in the files, which are of the photo's own kind."""
    assert photos.method == "ddnm"
    samples = np.random.default_rng(0).integers(0, 255, (23, 131, 3)).astype(np.uint8)
    hidden = np.zeros((23, 131), bool)
    hidden[5:9, 4:7] = True
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    photo = Photo(Path("photo.png"), samples, exif=exif.tobytes())
    first, last = photos.restorations(Question(photo, hidden, "ddnm", seeds=2), tmp_path)
    assert "of 55x23 pixels" in first.status
    for one in last.samples:
        assert one.image.shape == (23, 131, 3)
        np.testing.assert_array_equal(one.image[~hidden], photo.x[~hidden])
    assert np.abs(last.samples[0].image - photo.x)[hidden].max() > 0.1
    written = read_photo(last.files[1])
    np.testing.assert_array_equal(written.samples[~hidden], samples[~hidden])
    assert written.exif == photo.exif


def test_more_than_the_page_samples_is_refused_before_it_starts(photos, monkeypatch):
    far = np.zeros((1100, 1200), bool)
    far[0, 0] = far[-1, -1] = True
    with pytest.raises(UserError, match=r"^1200x1100 pixels are to be sampled, .* up to 1.0 million. Paint less"):
        pose(large(far), photos.prior)
    far[-1, -1] = False
    problem = pose(large(far), photos.prior)
    assert problem.fit.prior == (49, 49)
    with pytest.raises(UserError, match=r"^1200x1100 pixels are to be sampled, .* million\. Paint less"):
        pose(large(far, sigma_y=0.1), photos.prior)
    monkeypatch.setattr("experiments.demo.restorer.available_memory", lambda device: 2**20)
    assert needed_memory(problem.question, problem.fit) == 4 * 49 * 49 * 90
    with pytest.raises(UserError, match=r"^5 samples of 49x49 pixels need about 1 MiB of memory, more than is free\."):
        pose(large(far, seeds=5), photos.prior)


def test_memory_and_time_of_much_to_sample_are_said_before_it_starts(photos):
    """Four samples of 800x1000 pixels and 90 bytes, 10 steps of 5.5 microseconds a pixel."""
    hidden = np.zeros((800, 1000), bool)
    hidden[0, 0] = hidden[-1, -1] = True
    problem = pose(large(hidden), photos.prior)
    assert size_text(problem, 10) == (
        "of 1000x800 pixels, in about 275 MiB of memory, about 3 minutes on two cores of a CPU"
    )
    hidden[-1, -1] = False
    assert size_text(pose(large(hidden), photos.prior), 10) == "of 49x49 pixels"


def test_a_larger_photo_than_the_prior_is_cut_and_its_known_pixels_stay(restorer, tmp_path):
    """A prior of one size sees the middle at a third of the size; the photo comes back whole."""
    hidden = np.zeros((48, 54), bool)
    hidden[20:28, 20:28] = True
    samples = np.random.default_rng(0).integers(0, 255, (48, 54, 3)).astype(np.uint8)
    asked = question(photo=Photo(Path("photo.png"), samples), hidden=hidden)
    assert pose(asked, restorer.prior).measurement.y.shape == (16, 16, 3)
    *_, last = restorer.restorations(asked, tmp_path)
    np.testing.assert_array_equal(last.samples[0].image[~hidden], asked.photo.x[~hidden])
    assert (last.samples[0].image[hidden] != asked.photo.x[hidden]).mean() > 0.9


def test_priors_of_any_size_offer_photographs_and_others_faces(restorer, photos):
    faces = examples(restorer.prior)
    assert len(faces) == 8
    assert faces[2][0].samples.shape == (SIZE, SIZE, 3)
    assert examples(photos.prior)[0][1] == "scratched.png: 512x512 pixels, at their own size."


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
