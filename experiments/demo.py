"""A page in the browser: hide a part of a face with the mouse, and watch samples of what may have been there appear.

python -m experiments.demo
python -m experiments.demo --prior priors/ffhq-256 --steps 250 --port 8000

It needs gradio: pip install "jaxdiff[demo]". By default only this machine can open the page; nothing leaves it.
"""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Bool, Float, UInt8

from experiments.problems import held_out_face, sample_keys
from jaxdiff import Denoiser, load_prior, sample_segments
from jaxdiff.images import heat, to_uint8
from jaxdiff.operators import Mask, measure
from jaxdiff.runs import report
from jaxdiff.runs.errors import UserError, check_positive, exit_on_user_error
from jaxdiff.runs.names import METHODS
from jaxdiff.runs.pictures import Fit, check_hidden, read_picture
from jaxdiff.runs.presets import make_run
from jaxdiff.runs.restore import NOT_EVIDENCE
from jaxdiff.runs.runner import SNAPSHOTS, compile_meter
from jaxdiff.runs.scores import residual_text, score

FACES = 8
"""Held-out faces to choose from."""

CANVAS = 384
"""Pixels that a side of the picture to paint on fills, as far as a whole number of times goes."""

PAINT = "#e0218a"

TITLE = """<h1>Restore what is hidden</h1><p>Choose a face, paint over a part of it with the mouse and press Restore.
A diffusion prior draws several pictures that agree with the rest.</p>"""

STYLE = """
#pictures .row { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px }
#pictures figure { max-width: 256px; margin: 0 0 8px }
#pictures img { width: 100%; image-rendering: pixelated }
#pictures figcaption { font-size: 13px; color: var(--body-text-color-subdued) }
"""

HINT = "paint over what is to be hidden, and leave something to go by"


@dataclass(frozen=True)
class Config:
    """Flags of the demo."""

    prior: str = "faces-32"
    """A shipped prior, or a folder written by `python -m convert_weights`."""
    steps: int = 100
    """Diffusion steps of a whole chain; the literature takes 1000."""
    host: str = "127.0.0.1"
    """Address to serve on; 0.0.0.0 opens the page to everybody who can reach this machine."""
    port: int = 7860
    """Port to serve on."""


@dataclass(frozen=True)
class Question:
    """What is to be restored, and how.

    Attributes:
        image: the picture, of which only what is not hidden is used.
        hidden: True where a pixel is hidden.
        method: `sdedit`, `score-ald` or `dps`.
        seeds: number of samples.
        sigma_y: standard deviation of the noise to add to the known pixels, in [-1, 1] units.
        seed: root of all random numbers.
    """

    image: Float[np.ndarray, "h w 3"]
    hidden: Bool[np.ndarray, "h w"]
    method: str = "dps"
    seeds: int = 4
    sigma_y: float = 0.0
    seed: int = 0


class Picture(NamedTuple):
    """An image and what it is."""

    image: Float[np.ndarray, "h w 3"]
    caption: str


class View(NamedTuple):
    """What there is to see at one moment.

    Attributes:
        samples: one per seed: the estimate `x0_hat` so far, in the end the sample.
        others: what is known of the picture; in the end also mean and standard deviation of the samples.
        status: how far it is; in the end what the samples are worth.
    """

    samples: list[Picture]
    others: list[Picture]
    status: str


@dataclass
class Restorer:
    """What answers questions.

    Attributes:
        denoiser: the prior.
        steps: diffusion steps of a whole chain.
        compiled: methods and numbers of seeds whose programs are compiled.
    """

    denoiser: Denoiser
    steps: int
    compiled: set[tuple[str, int]] = field(default_factory=set)

    @property
    def size(self) -> int:
        """Side of the prior's images."""
        return self.denoiser.image_shape[0]

    def restorations(self, question: Question) -> Iterator[View]:
        """Draws the samples asked for, and shows them after every segment.

        Another picture or mask costs no compilation; another method or number of seeds does, once.

        Raises:
            UserError: if nothing or everything is hidden, or a chain diverges.
        """
        operator, y = hide(question)
        method, sigma_y, program = METHODS[question.method], question.sigma_y, (question.method, question.seeds)
        run = make_run(question.method, "inpaint", self.denoiser, operator, y, sigma_y, self.steps)
        known = [Picture(np.asarray(y), "what is known")]
        state = "starting ..." if program in self.compiled else "compiling, the first time only ..."
        yield View([], known, f"{method}, {count(question.seeds, 'sample')}: {state}")
        residual, started = residual_text(operator, y, sigma_y), time.monotonic()
        progress, num_steps = None, len(run.times) - 1
        with compile_meter() as compilation:
            keys, segment = sample_keys(question.seed, question.seeds), max(num_steps // SNAPSHOTS, 1)
            for progress in sample_segments(run.sampler, keys, run.times, segment=segment):
                self.compiled.add(program)
                check_finite(progress.state, method, progress.step)
                status = f"{method}: step {progress.step} of {num_steps}, {residual(progress.x0_hat)}"
                yield View(captioned(np.asarray(progress.x0_hat), "estimate"), known, status)
        assert progress is not None
        took = f"{time.monotonic() - started:.1f} s, {compilation.seconds:.1f} s of it for compiling"
        status = f"{count(question.seeds, 'sample')} by {method} in {count(num_steps, 'step')}: {took}."
        yield conclude(question, operator, np.asarray(progress.state), known, status)


def hide(question: Question) -> tuple[Mask, Float[Array, "h w 3"]]:
    """Returns the forward model and its measurement; painting nothing or everything is refused."""
    check_hidden(question.hidden, "your painting", HINT)
    operator = Mask(1.0 - question.hidden[..., None].astype(np.float32))
    key = jax.random.fold_in(jax.random.key(question.seed), 1)
    return operator, measure(key, operator, jnp.asarray(question.image), question.sigma_y)


def conclude(
    question: Question, operator: Mask, x: Float[np.ndarray, "n h w 3"], known: list[Picture], status: str
) -> View:
    """Returns the samples with mean and spread, and says how well they agree with what is known."""
    y = known[0].image
    rows = score(x, operator, jnp.asarray(y), question.sigma_y)
    samples, words = np.clip(x, -1, 1), [status, report.verdict(rows)]
    if question.sigma_y == 0:
        missed = np.sqrt(np.mean((samples - y)[:, ~question.hidden] ** 2)) * 127.5
        words.append(f"The samples missed the known pixels by {missed:.1f} of 255 steps; these were then put back.")
        samples = np.where(question.hidden[..., None], samples, y)
    others = list(known)
    if len(samples) > 1:
        std = samples.std(0).mean(-1)
        top = max(float(np.quantile(std, 0.99)), 1e-6)
        others.append(Picture(samples.mean(0), f"mean of {len(samples)} samples"))
        others.append(Picture(heat(std, top), f"their standard deviation, 0 black to {top:.2g} white"))
    return View(captioned(samples, "sample"), others, " ".join(words))


def captioned(images: Float[np.ndarray, "n h w 3"], what: str) -> list[Picture]:
    """Returns images, one per seed, with captions."""
    return [Picture(x, f"{what}, seed {k}") for k, x in enumerate(images)]


def check_finite(state: Float[Array, "n h w 3"], method: str, step: int) -> None:
    """Refuses chains that have diverged."""
    if not np.isfinite(np.asarray(state)).all():
        raise UserError(
            f"{method} diverged (not a finite number) by step {step}; more --steps make every step gentler."
        )


def count(number: int, what: str) -> str:
    """Returns a number with its noun.

    >>> count(1, "step"), count(2, "step")
    ('1 step', '2 steps')
    """
    return f"{number} {what}{'s' * (number != 1)}"


def read_upload(path: Path, size: int) -> tuple[Float[np.ndarray, "size size 3"], str]:
    """Reads a picture, cuts and resizes it to the prior's size, and says so.

    Raises:
        UserError: if it is no picture, or too small.
    """
    try:
        picture = read_picture(path)
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from error
    fit = Fit(path.name, picture.shape[0], picture.shape[1], size)
    return fit.apply(picture), fit.describe()


def enlarge(image: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Repeats the pixels of a small image up to the size of the canvas."""
    times = max(CANVAS // len(image), 1)
    return np.repeat(np.repeat(to_uint8(image), times, axis=0), times, axis=1)


def painted(layers: Sequence[UInt8[np.ndarray, "H W 4"]], size: int) -> Bool[np.ndarray, "size size"]:
    """Returns which of the prior's pixels the user has touched with paint."""
    if not layers:
        return np.zeros((size, size), bool)
    paint = np.any([layer[..., 3] > 0 for layer in layers], axis=0)
    return Fit("the painting", *paint.shape, size).apply_hidden(paint)


def to_html(view: View) -> str:
    """Returns the pictures of a view as a part of a page, small ones enlarged without smoothing."""
    return "".join(report.gallery(row) for row in (view.samples, view.others) if row)


class Widgets(NamedTuple):
    """The parts of the page that something happens to."""

    picture: Any
    faces: Any
    upload: Any
    editor: Any
    source: Any
    method: Any
    seeds: Any
    sigma_y: Any
    seed: Any
    start: Any
    stop: Any
    status: Any
    pictures: Any


def build_page(restorer: Restorer) -> Any:
    """Builds the page; gradio is imported here and not before."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    faces = [np.asarray(held_out_face(k, restorer.size)) for k in range(FACES)]
    with gr.Blocks(title="jaxdiff demo", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as page:
        connect(lay_out(faces), restorer, faces)
    page.queue(default_concurrency_limit=1)
    return page


def lay_out(faces: list[Float[np.ndarray, "h w 3"]]) -> Widgets:
    """Puts the parts of the page in their places."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    gr.HTML(TITLE)
    picture = gr.State(faces[0])
    with gr.Row():
        with gr.Column(scale=0, min_width=CANVAS + 60):
            gallery = gr.Gallery(
                [enlarge(face) for face in faces],
                label="Choose a face",
                columns=FACES,
                format="png",
                elem_id="faces",
                selected_index=0,
                allow_preview=False,
                buttons=[],
                height="auto",
            )
            upload = gr.UploadButton("or upload a picture", file_types=["image"], size="sm")
            editor = gr.ImageEditor(
                on_canvas(faces[0]),
                label="Paint over what is to be hidden",
                sources=[],
                transforms=[],
                layers=False,
                format="png",
                image_mode="RGBA",
                brush=gr.Brush(CANVAS // 20, [PAINT], PAINT, "fixed"),
                eraser=gr.Eraser(CANVAS // 20),
                canvas_size=enlarge(faces[0]).shape[:2],
                fixed_canvas=True,
                buttons=[],
                elem_id="editor",
            )
            source = gr.HTML(report.paragraph("Held-out face 0."), elem_id="source")
        with gr.Column(scale=1, min_width=400):
            with gr.Row():
                method = gr.Radio([(name, key) for key, name in METHODS.items()], value="dps", label="Method")
                seeds = gr.Slider(1, 8, 4, step=1, label="Samples")
                sigma_y = gr.Slider(0, 0.2, 0, step=0.01, label="Noise to add (std, of [-1, 1])")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            with gr.Row():
                start = gr.Button("Restore", variant="primary")
                stop = gr.Button("Stop")
            status = gr.HTML(report.paragraph("Paint over a part of the face, then press Restore."), elem_id="status")
            pictures = gr.HTML("", elem_id="pictures")
    gr.HTML(f"<footer>{report.paragraph(NOT_EVIDENCE)}</footer>")
    return Widgets(
        picture, gallery, upload, editor, source, method, seeds, sigma_y, seed, start, stop, status, pictures
    )


def on_canvas(image: Float[np.ndarray, "h w 3"]) -> dict[str, Any]:
    """Returns a picture to paint on."""
    return {"background": enlarge(image), "layers": [], "composite": None}


def connect(widgets: Widgets, restorer: Restorer, faces: list[Float[np.ndarray, "h w 3"]]) -> None:
    """Says what happens when something is pressed."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    def choose(event: gr.SelectData) -> tuple[Any, Any, str]:
        face = faces[event.index]
        return face, on_canvas(face), report.paragraph(f"Held-out face {event.index}.")

    def upload(path: str) -> tuple[Any, Any, str]:
        try:
            image, words = read_upload(Path(path), restorer.size)
        except UserError as error:
            gr.Warning(str(error))
            return gr.skip(), gr.skip(), report.paragraph(str(error))
        return image, on_canvas(image), report.paragraph(words)

    def restore(image: Any, editor: Any, *asked: Any) -> Iterator[tuple[Any, Any]]:
        try:
            hidden = painted(editor["layers"] if editor else [], restorer.size)
            for view in restorer.restorations(Question(image, hidden, *asked)):
                yield report.paragraph(view.status), to_html(view)
        except UserError as error:
            gr.Warning(str(error))
            yield report.paragraph(str(error)), gr.skip()

    w = widgets
    private = {"api_visibility": "private"}
    shown = [w.picture, w.editor, w.source]
    w.faces.select(choose, None, shown, show_progress="hidden", **private)
    w.upload.upload(upload, w.upload, shown, show_progress="hidden", **private)
    asked = [w.picture, w.editor, w.method, w.seeds, w.sigma_y, w.seed]
    running = w.start.click(
        restore, asked, [w.status, w.pictures], concurrency_limit=1, show_progress_on=w.status, **private
    )
    w.stop.click(lambda: report.paragraph("Stopped."), None, w.status, cancels=[running], queue=False, **private)


def check_gradio() -> None:
    """Refuses to go on without gradio, and sees to it that it does not call home."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError('the demo needs gradio; install it with `pip install "jaxdiff[demo]"`.') from error


def check_address(host: str, port: int) -> None:
    """Refuses an address that cannot be served on."""
    if not 1 <= port <= 65535:
        raise UserError(f"--port must be between 1 and 65535, got {port}.")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot serve on {host}:{port} ({reason}); choose another --port or --host.") from error


def main(config: Config) -> None:
    """Serves the page until Ctrl-C."""
    check_positive(steps=config.steps)
    check_address(config.host, config.port)
    check_gradio()
    denoiser = load_prior(config.prior)
    if config.steps > denoiser.schedule.num_times:
        raise UserError(f"--steps must be between 1 and {denoiser.schedule.num_times}, got {config.steps}.")
    with TemporaryDirectory(prefix="jaxdiff-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        serve(build_page(Restorer(denoiser, config.steps)), config)


def serve(page: Any, config: Config) -> None:
    """Opens the page to the browser, and waits for Ctrl-C."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    page.launch(
        server_name=config.host,
        server_port=config.port,
        share=False,
        ssr_mode=False,
        run_history=False,
        quiet=True,
        theme=theme,
        css=STYLE,
        footer_links=[],
        max_file_size="20mb",
        prevent_thread_lock=True,
    )
    print(f"open http://{config.host}:{config.port} in a browser; Ctrl-C ends the demo")
    page.block_thread()


if __name__ == "__main__":
    with exit_on_user_error("the demo has ended"):
        main(tyro.cli(Config, description=__doc__))
