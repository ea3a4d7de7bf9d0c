"""The report: one file that needs no other, right numbers, and text that stays text."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jaxdiff.images.files import to_uint8
from jaxdiff.images.grid import heat
from jaxdiff.metrics.diagnosis import Diagnosis, Verdict
from jaxdiff.runs import page, report
from jaxdiff.runs.chart import chart

HOSTILE = "<script>alert(1)</script> & \"><img onerror='x'>"
VOID = {"img", "input", "meta"}


def image(h=6, w=9, channels=3, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (h, w, channels)).astype(np.float32)


class Document(HTMLParser):
    """Reads HTML, checks that its tags match, and keeps what a test may ask for."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text, self.cells = [], [], "", []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data

    def all(self, tag, css=""):
        return [attrs for name, attrs in self.tags if name == tag and css in (attrs.get("class") or "")]


def decode(img):
    kind, data = img["src"].split(",", 1)
    assert kind in ("data:image/png;base64", "data:image/gif;base64")
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def pixels(img):
    found = np.asarray(decode(img))
    return found if found.ndim == 3 else found[..., None]


def score_rows(ratios=(1.0, 1.2), **columns):
    others = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    others = others or [{}] * len(ratios)
    return [{"seed": k, **other, "residual_ratio": r} for k, (r, other) in enumerate(zip(ratios, others, strict=True))]


def section(samples=None, title="Denoising, DPS", **changes):
    samples = np.stack([image(8, 8, seed=k) for k in range(2)]) if samples is None else samples
    rows = score_rows(np.linspace(0.9, 1.1, len(samples)).tolist())
    options = {"measurement": image(8, 8, seed=8), "truth": image(8, 8, seed=9), "rows": rows, **changes}
    return report.samples_section(title, samples=samples, **options)


def every_block(text):
    frames = np.stack([to_uint8(image(seed=k)) for k in range(3)])
    png = io.BytesIO()
    Image.fromarray(frames[0]).save(png, format="PNG")
    return [
        page.heading(text),
        page.heading(text, 3),
        page.paragraph(text),
        page.command(text),
        page.settings({text: text, "inside": {text: [text, 1]}}),
        page.table([{text: text, "n": 1}], text, {"n": text}),
        page.picture(image(), text),
        page.gallery([(image(), text), (image(channels=1), text)]),
        page.animation(frames, text),
        page.figure_file(png.getvalue(), text),
        page.slider(image(), image(seed=1), text, text),
        section(title=text, frames=frames, rows=[{"seed": text, "residual_ratio": text, "psnr": text}] * 2),
        chart(np.ones((3, 2)), text),
    ]


def test_a_page_needs_no_other_file():
    html = page.document("Report", every_block("some words"))
    document = Document(html)
    assert "http" not in html
    assert "url(" not in html
    assert "@import" not in html
    sources = [attrs["src"] for _, attrs in document.tags if "src" in attrs]
    assert len(sources) == len(document.all("img")) > 10
    assert all(source.startswith("data:") for source in sources)
    assert not any(tag == "link" or "href" in attrs for tag, attrs in document.tags)
    assert {"charset": "utf-8"} in document.all("meta")
    assert any(attrs.get("name") == "viewport" for attrs in document.all("meta"))


def test_every_text_stays_text():
    for block in every_block(HOSTILE):
        document = Document(block)
        assert HOSTILE in document.text, block
        assert not any(tag == "script" or "onerror" in attrs for tag, attrs in document.tags), block
    document = Document(page.document(HOSTILE, []))
    assert len(document.all("script")) == 1
    assert document.text.count(HOSTILE) == 2


def test_a_page_is_written_whole(tmp_path):
    path = tmp_path / "new" / "report.html"
    page.write_page(path, "old", [])
    page.write_page(str(path), "Größe", [page.paragraph("σ = 0.05")])
    assert path.read_text("utf-8") == page.document("Größe", ["<p>σ = 0.05</p>"])
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_hold_their_pixels(channels):
    x = 1.2 * image(channels=channels)
    (img,) = Document(page.picture(x, "a caption")).all("img")
    np.testing.assert_array_equal(pixels(img), to_uint8(x))
    assert img["alt"] == "a caption"


@pytest.mark.parametrize(
    ("h", "w", "shown", "crisp"), [(32, 32, 256, True), (8, 24, 768, True), (200, 300, 300, False)]
)
def test_small_pictures_are_enlarged_by_whole_numbers(h, w, shown, crisp):
    document = Document(page.picture(image(h, w)))
    assert document.all("figure")[0]["style"] == f"--width: {shown}px"
    assert bool(document.all("img", "pixels")) == crisp
    assert "--width: 50px" in page.picture(image(h, w), width=50)


def test_what_is_no_picture_is_refused(tmp_path, unchecked):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"\(h, w, 1\) or \(h, w, 3\), got \(6, 9, 2\)"):
        page.picture(image(channels=2))
    with pytest.raises(ValueError, match="uint8"):
        page.animation(image()[None])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"notes\.txt is not a PNG"):
        page.figure_file(tmp_path / "notes.txt")


def test_a_ready_made_figure_is_left_as_it_is(tmp_path):
    path = tmp_path / "curve.png"
    Image.fromarray(to_uint8(image())).save(path, dpi=(99, 99))
    for figure in (path, str(path), path.read_bytes()):
        (img,) = Document(page.figure_file(figure)).all("img")
        assert base64.b64decode(img["src"].split(",")[1]) == path.read_bytes()


def test_animations_play_in_order_and_rest_on_the_last_frame():
    values = [0, 100, 200]
    frames = np.stack([np.full((4, 8, 3), value, np.uint8) for value in values])
    (img,) = Document(page.animation(frames, ms=80)).all("img")
    gif, shown, durations = decode(img), [], []
    for k in range(3):
        gif.seek(k)
        shown.append(int(np.asarray(gif.convert("L")).mean()))
        durations.append(gif.info["duration"])
    assert shown == values
    assert durations[:2] == [80, 80]
    assert durations[2] >= 1000
    assert gif.info["loop"] == 0


def test_sliders_show_before_on_the_left_over_after():
    before, after = image(4, 4, seed=1), image(8, 8, seed=2)
    document = Document(page.slider(before, after, "blurred", "sharp"))
    np.testing.assert_array_equal(pixels(document.all("img", "before")[0]), to_uint8(before))
    np.testing.assert_array_equal(pixels(document.all("img", "after")[0]), to_uint8(after))
    assert document.text.index("blurred") < document.text.index("sharp")
    assert document.all("input")[0]["type"] == "range"


def test_tables_show_numbers_with_few_digits():
    rows = [
        {"name": "a", "n": 3, "time": 12.3456, "ssim": np.float32(0.81234), "lpips": "n/a"},
        {"name": "b", "n": 40, "time": 0.5, "lpips": "n/a"},
    ]
    document = Document(page.table(rows, "Times", {"time": "seconds"}))
    assert document.cells == [
        ["name", "n", "seconds", "ssim", "lpips"],
        ["a", "3", "12.35", "0.812", "n/a"],
        ["b", "40", "0.50", "", "n/a"],
    ]
    assert len(document.all("th", "number")) == 3  # n, time, lpips
    assert "Times" in document.text
    with pytest.raises(ValueError, match="at least one row"):
        page.table([])


def test_settings_nest_and_round():
    values = {"sigma": 0.0512345, "gamma": (28.0, 1 / 3), "inside": {"steps": 1000, "lr": 3e-5}, "image": None}
    document = Document(page.settings(values | {"resume": True, "empty": {}}))
    assert len(document.all("dl")) == 2
    words = ["sigma", "0.05123", "gamma", "28, 0.3333", "inside", "steps", "1000", "lr", "3e-05", "image", "none"]
    assert document.text == "".join([*words, "resume", "yes", "empty", "none"])


def test_scores_end_in_their_mean_and_std():
    rows = score_rows([1.0, 1.1, 1.2], psnr=[20.0, 21.0, 25.0], lpips_vgg=["n/a", 0.2, 0.3])
    rows = [{"task": "box", "method": "DPS", **row} for row in rows]
    document = Document(section(samples=np.zeros((3, 8, 8, 3), np.float32), rows=rows))
    assert document.cells == [
        ["seed", "PSNR (dB) ↑", "LPIPS (vgg) ↓", "residual / noise"],
        ["0", "20.00", "n/a", "1.00"],
        ["1", "21.00", "0.200", "1.10"],
        ["2", "25.00", "0.300", "1.20"],
        ["mean", "22.00", "n/a", "1.10"],
        ["std", "2.65", "n/a", "0.10"],
    ]


def test_the_verdict_is_told():
    document = Document(section(verdict=Verdict("data ignored", "Why & what < helps.")))
    assert "data ignored: Why & what < helps." in document.text
    assert document.all("strong")


def test_nothing_is_said_of_what_is_not_known():
    quiet = section(rows=[{"seed": 0, "psnr": 20.0}, {"seed": 1, "psnr": 21.0}])
    assert "residual" not in quiet
    assert "<svg" not in quiet


def test_curves_along_a_run_rise_with_their_values_on_a_logarithmic_scale():
    document = Document(chart(np.array([[0.1, 10.0], [1.0, 10.0], [10.0, np.nan]]), "how <far>", mark=1.0))
    first, second = (
        [tuple(map(float, point.split(","))) for point in attrs["points"].split()] for attrs in document.all("polyline")
    )
    assert len(first) == 3
    assert len(second) == 2
    assert first[0][0] < first[1][0] < first[2][0]
    assert first[0][1] - first[1][1] == pytest.approx(first[1][1] - first[2][1], abs=0.2)
    assert second[0][1] == first[2][1]
    assert float(document.all("line", "mark")[0]["y1"]) == first[1][1]
    assert "how <far>" in document.text
    # Nothing but zeros, as guidance of an unguided run.
    assert "nan" not in chart(np.zeros((3, 2)), "zeros")
    seen = Diagnosis(*(np.full((3, 2), 0.5) for _ in Diagnosis._fields))
    assert len(Document(section(curve=seen)).all("svg", "chart")) == 2


def test_mean_and_spread_are_those_of_the_clipped_samples():
    samples = 2 * np.stack([image(8, 8, seed=k) for k in range(3)])
    document = Document(section(samples, std_max=0.5))
    shown = {attrs["alt"].split(",")[0]: pixels(attrs) for attrs in document.all("img")}
    clipped = np.clip(samples, -1, 1)
    np.testing.assert_array_equal(shown["mean of 3 samples"], to_uint8(clipped.mean(0)))
    spread = clipped.std(0).mean(-1)
    np.testing.assert_array_equal(shown["standard deviation of 3 samples"], to_uint8(heat(spread, 0.5)))
    assert f"{spread.mean():.2g} on average" in document.text


def test_equal_samples_have_a_black_map():
    samples = np.zeros((2, 8, 8, 3), np.float32)
    (img,) = [attrs for attrs in Document(section(samples)).all("img") if attrs["alt"].startswith("standard")]
    assert not pixels(img).any()


def test_every_sample_can_be_put_into_the_sliders():
    document = Document(section(rows=[{"seed": 7}, {"seed": 9}]))
    choices = [attrs["alt"] for attrs in document.all("img", "choosable")]
    assert choices == ["mean of 2 samples", "sample, seed 7", "sample, seed 9"]
    assert [attrs["alt"] for attrs in document.all("img", "after")] == ["sample, seed 7"] * 2
    assert [attrs.get("selected", "no") for attrs in document.all("option")] == ["no", None, "no"]


def test_without_truth_there_is_one_slider():
    document = Document(section(truth=None))
    assert [attrs["alt"] for attrs in document.all("img", "before")] == ["measurement"]
    assert "truth" not in document.text


def test_one_sample_has_no_spread():
    document = Document(section(image(8, 8)[None], frames=np.zeros((0, 8, 16, 3), np.uint8)))
    assert "needs at least two samples" in document.text
    assert "standard deviation of" not in document.text
    assert len(document.cells) == 2
    assert document.all("select") == []


def test_samples_and_scores_must_match():
    with pytest.raises(ValueError, match="got 1 rows and 2 samples"):
        section(rows=score_rows([1.0]))
