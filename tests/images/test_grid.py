"""Figures: every image in its place, pixel by pixel, and maps by lightness."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.images.files import read_image, to_uint8, write_image
from jaxdiff.images.grid import grid, heat, labelled_grid
from tests.images.conftest import image


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_places_images_row_by_row_on_white(channels):
    images = [image(4, 5, channels, seed) for seed in range(5)]
    sheet = grid(images, columns=3, padding=2)
    assert sheet.shape == (2 * 6 + 2, 3 * 7 + 2, channels)
    found = np.ones_like(sheet)
    for i, x in enumerate(images):
        top, left = 2 + 6 * (i // 3), 2 + 7 * (i % 3)
        np.testing.assert_array_equal(sheet[top : top + 4, left : left + 5], x)
        found[top : top + 4, left : left + 5] = x
    np.testing.assert_array_equal(sheet, found)


def test_grid_of_a_stack_is_no_wider_than_its_images():
    stack = jnp.asarray(np.stack([image(), image(seed=1)]))
    np.testing.assert_array_equal(grid(stack, 8, padding=0), np.concatenate(list(stack), axis=1))


@pytest.mark.parametrize(
    ("images", "columns", "padding"),
    [
        ([], 1, 0),
        ([image(), image(3, 3)], 1, 0),
        (image(), 1, 0),
        ([image()], 0, 0),
        ([image()], 1, -1),
    ],
)
def test_bad_grids_are_refused(images, columns, padding, unchecked):
    with pytest.raises(ValueError, match="must be"):
        grid(images, columns, padding)


def test_heat_goes_from_black_to_white_by_even_lightness():
    ramp = (heat(np.linspace(0, 2, 201)[None], vmax=2.0)[0].astype(np.float64) + 1) / 2
    np.testing.assert_allclose(ramp[[0, -1]], [[0, 0, 0], [1, 1, 1]], atol=1e-6)
    linear = np.where(ramp <= 0.04045, ramp / 12.92, ((ramp + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    assert np.all(np.diff(lightness) > 0)
    np.testing.assert_allclose(lightness, np.linspace(0, 100, 201), atol=6)


def test_heat_saturates_and_has_an_absolute_scale():
    x = np.array([[0.0, 0.5, 1.0, 9.0]])
    coloured = heat(jnp.asarray(x), 1.0)
    np.testing.assert_array_equal(coloured[0, 3], [1, 1, 1])
    np.testing.assert_allclose(heat(x / 10, 0.1), coloured, atol=1e-6)
    np.testing.assert_array_equal(heat(x[:, :2], 1.0), coloured[:, :2])


@pytest.mark.parametrize(
    ("x", "vmax"),
    [
        (np.zeros((2, 2, 1)), 1.0),
        (-np.ones((2, 2)), 1.0),
        (np.full((2, 2), np.nan), 1.0),
        (np.zeros((2, 2)), 0.0),
        (np.zeros((2, 2)), np.nan),
    ],
)
def test_bad_maps_are_refused(x, vmax, unchecked):
    with pytest.raises(ValueError, match="must be"):
        heat(x, vmax)


def find(sheet, x, scale):
    """Whether the image stands somewhere in the sheet, enlarged pixel by pixel."""
    large = np.kron(to_uint8(x), np.ones((scale, scale, 1), np.uint8))
    windows = np.lib.stride_tricks.sliding_window_view(to_uint8(sheet), large.shape)
    places = np.argwhere((windows == large).all(axis=(-3, -2, -1)))
    return [tuple(place[:2].tolist()) for place in places]


def test_labelled_grid_shows_every_image_exactly_in_its_place():
    rows = [[image(8, 8, seed=1), None], [image(8, 8, seed=2), image(8, 8, seed=3)]]
    sheet = labelled_grid(rows, ["truth", "DPS"], ["a", "b"], scale=3)
    ((top, left),) = find(sheet, rows[0][0], 3)
    ((low, same_left),) = find(sheet, rows[1][0], 3)
    ((same_low, right),) = find(sheet, rows[1][1], 3)
    assert left == same_left
    assert low == same_low
    assert low >= top + 24
    assert right >= left + 24
    # The blank cell and the margins are white.
    assert np.all(sheet[top : top + 24, right - 1 : right + 24] == 1)
    assert np.all(sheet[[0, -1]] == 1)
    assert np.all(sheet[:, [0, -1]] == 1)


def test_grey_and_smaller_images_fill_their_cell():
    full, grey, low = image(16, 16), image(16, 16, 1, 1), image(4, 4, 3, 2)
    sheet = labelled_grid([[full, grey, low]], ["x", "y", "z"], scale=2)
    ((top, _),) = find(sheet, full, 2)
    assert [place[0] for place in find(sheet, np.repeat(grey, 3, axis=-1), 2)] == [top]
    assert [place[0] for place in find(sheet, low, 8)] == [top]


def test_text_is_drawn_where_it_belongs():
    x = np.ones((32, 32, 3), np.float32)
    with_text = labelled_grid([[x]], ["Title"], ["Row"], captions=[["31.2 dB"]], scale=2)
    without = labelled_grid([[x]], [" "], [" "], captions=[[" "]], scale=2)
    dark = with_text[..., 0] < 0
    height, width = dark.shape
    assert dark[: height // 4, width // 2 :].any()
    assert dark[-height // 4 :, width // 2 :].any()
    assert dark[height // 4 : -height // 4, : width // 3].any()
    assert not (without[..., 0] < 0).any()


def test_columns_widen_for_long_titles_and_lines_add_height():
    x = image(16, 16)
    plain = labelled_grid([[x, x]], ["a", "b"])
    long = labelled_grid([[x, x]], ["a", "a much longer title"])
    tall = labelled_grid([[x, x]], ["a", "two\nlines"])
    captioned = labelled_grid([[x, x]], ["a", "b"], captions=[[None, "27 dB"]])
    assert long.shape[1] > plain.shape[1]
    assert long.shape[0] == plain.shape[0]
    assert tall.shape[0] > plain.shape[0]
    assert captioned.shape[0] > plain.shape[0]


def test_characters_that_the_font_lacks_become_question_marks():
    x = image(16, 16)
    np.testing.assert_array_equal(labelled_grid([[x]], ["σ ± 1"]), labelled_grid([[x]], ["? ± 1"]))
    assert not np.array_equal(labelled_grid([[x]], ["± 1"]), labelled_grid([[x]], ["? 1"]))


def test_a_figure_survives_its_png(tmp_path):
    sheet = labelled_grid([[image(16, 16)]], ["truth"], ["face 0"], scale=4)
    write_image(tmp_path / "x.png", sheet)
    np.testing.assert_allclose(read_image(tmp_path / "x.png"), sheet, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([[None, None]], {}, "at least one image"),
        ([], {}, "at least one image"),
        ([[image()]], {}, "must have 2 cells"),
        ([[image(), None]], {"row_titles": ["a", "b"]}, "`row_titles` must have 1 entries"),
        ([[image(), None]], {"captions": [["a"]]}, "row of `captions` must have 2 cells"),
        ([[image(), None]], {"captions": []}, "`captions` must have"),
        ([[image(), None]], {"scale": 0}, "`scale` must be"),
        ([[image(channels=2), None]], {}, "must have shape"),
        ([[np.full((4, 4, 3), np.nan), None]], {}, "finite"),
    ],
)
def test_tables_that_do_not_fit_are_refused(rows, options, message):
    with pytest.raises(ValueError, match=message):
        labelled_grid(rows, ["a", "b"], **options)
