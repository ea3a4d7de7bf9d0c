"""A page in the browser: hide a part of a photo with the mouse, and watch samples of what may have been there appear.

python -m experiments.demo
python -m experiments.demo --prior faces-32 --steps 100
python -m experiments.demo --prior priors/ffhq-256 --port 8000

It needs gradio: pip install "jaxdiff[demo]". By default only this machine can open the page, and nothing leaves it.
"""

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Event
from typing import Any, NamedTuple

from experiments.demo.pictures import CANVAS, LARGEST_PHOTO, examples, painted, read_upload, to_canvas
from experiments.demo.restorer import Question, Restorer, View
from experiments.shared.command import run_script
from jaxdiff import load_prior
from jaxdiff.cli.restore import NOT_EVIDENCE
from jaxdiff.errors import UserError
from jaxdiff.images.photo import Photo
from jaxdiff.networks.precision import Dtype
from jaxdiff.runs import page
from jaxdiff.runs.fitting import MANY_PIXELS
from jaxdiff.runs.methods import METHODS

PAINT = "#e0218a"

TO_DO = "Paint over a part of the picture, then press Restore."

TITLE = """<h1>Restore what is hidden</h1><p>Choose a picture or upload one, paint over a part of it with the mouse, and
press Restore. A diffusion prior then draws several pictures that agree with the rest.</p>"""

LIMITS = (
    f"Photos have up to {LARGEST_PHOTO / 1e6:.0f} million pixels, and at most {MANY_PIXELS / 1e6:.0f} million around "
    "the paint are sampled; on two cores of a CPU that takes minutes. The command jaxdiff restore has no such limit."
)

STYLE = """
#examples .grid-wrap { min-height: 0; height: auto }
#examples .grid-container {
  grid: auto / repeat(8, minmax(0, 1fr)) !important; grid-auto-rows: auto !important; gap: 6px
}
.html-container { padding: 4px 0 0 !important }
#pictures .row { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px }
#pictures figure { max-width: 256px; margin: 0 0 8px }
#pictures img { width: 100%; image-rendering: pixelated }
#pictures figcaption { opacity: 0.75; font-size: 13px }
"""


@dataclass(frozen=True)
class Config:
    """Flags of the demo."""

    prior: str = "photos"
    """A shipped prior (photos: any photo, at its own size; faces-32: drawn faces of 32x32), or a folder written by
    `jaxdiff convert`."""
    dtype: Dtype = "float32"
    """Precision of the network's products: tf32 and bfloat16 are faster on GPUs and TPUs, not on CPUs."""
    steps: int | None = None
    """Diffusion steps of a whole chain: 10 by default for priors that start at an estimate, as photos does, 250 for
    others; the literature takes 1000."""
    host: str = "127.0.0.1"
    """Address to serve on; 0.0.0.0 opens the page to everybody who can reach this machine."""
    port: int = 7860
    """Port to serve on."""


@dataclass
class Ended:
    """Runs of a visitor that are over: those asked for up to a moment, in milliseconds of the browser's clock."""

    at: float = 0.0


class Widgets(NamedTuple):
    """The parts of the page that something happens to."""

    photo: Any
    ended: Any
    asked: Any
    examples: Any
    upload: Any
    source: Any
    editor: Any
    method: Any
    seeds: Any
    sigma_y: Any
    seed: Any
    start: Any
    stop: Any
    status: Any
    pictures: Any
    files: Any


def build_page(restorer: Restorer) -> Any:
    """Builds the page."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    shown = examples(restorer.prior)
    with gr.Blocks(title="jaxdiff demo", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as blocks:
        gr.HTML(TITLE)
        with gr.Row():
            with gr.Column(scale=0, min_width=CANVAS + 76):
                left = lay_out_left(shown)
            with gr.Column(scale=1, min_width=400):
                right = lay_out_right(restorer.method)
        limits = page.paragraph(LIMITS) if restorer.prior.any_size else ""
        gr.HTML(f"<footer>{limits}{page.paragraph(NOT_EVIDENCE)}</footer>")
        kept = [gr.State(shown[0][0]), gr.State(Ended()), gr.Number(0, visible="hidden")]
        connect(Widgets(*kept, *left, *right), restorer, shown)
    return blocks


def lay_out_left(shown: list[tuple[Photo, str]]) -> list[Any]:
    """Puts down what chooses a picture and paints on it."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    gallery = gr.Gallery(
        [to_canvas(photo) for photo, _ in shown],
        label="Choose a picture",
        show_label=False,
        columns=8,
        format="png",
        selected_index=0,
        allow_preview=False,
        buttons=[],
        elem_id="examples",
    )
    upload = gr.UploadButton("or upload a picture", file_types=["image"], size="sm")
    source = gr.HTML(page.paragraph(shown[0][1]), elem_id="source")
    first = on_canvas(shown[0][0])
    h, w, _ = first["background"].shape
    editor = gr.ImageEditor(
        first,
        label="Paint over what is to be hidden",
        sources=[],
        transforms=[],
        layers=False,
        format="png",
        brush=gr.Brush(CANVAS // 20, [PAINT], PAINT, "fixed"),
        eraser=gr.Eraser(CANVAS // 20),
        canvas_size=(w, h),
        height=CANVAS + 64,
        buttons=[],
        elem_id="editor",
    )
    return [gallery, upload, source, editor]


def lay_out_right(default: str) -> list[Any]:
    """Puts down what asks for samples and shows them."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    with gr.Row():
        method = gr.Radio(
            [(row.name, key) for key, row in METHODS.items()], value=default, label="Method", min_width=300
        )
        seeds = gr.Slider(1, 8, 4, step=1, label="Samples", min_width=200)
    with gr.Row():
        sigma_y = gr.Slider(0, 0.2, 0, step=0.01, label="Noise to add, in [-1, 1] units", min_width=300)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, min_width=200)
    with gr.Row():
        start = gr.Button("Restore", variant="primary")
        stop = gr.Button("Stop")
    status = gr.HTML(page.paragraph(TO_DO), elem_id="status")
    pictures = gr.HTML("", elem_id="pictures")
    files = gr.Files(label="At the picture's own size", visible=False, elem_id="files")
    return [method, seeds, sigma_y, seed, start, stop, status, pictures, files]


def connect(on: Widgets, restorer: Restorer, offered: list[tuple[Photo, str]]) -> None:
    """Says what happens when something is pressed."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    def choose(event: gr.SelectData) -> tuple[Any, ...]:
        return show(*offered[event.index])

    def upload(path: str) -> tuple[Any, ...]:
        try:
            return show(*read_upload(Path(path), restorer.prior))
        except UserError as error:
            gr.Warning(str(error))
            return gr.skip(), gr.skip(), page.paragraph(str(error)), gr.skip(), gr.skip(), gr.skip()

    def restore(
        photo: Photo, ended: Ended, asked: float, editor: Any, method: str, seeds: int, sigma_y: float, seed: int | None
    ) -> Iterator[Any]:
        hidden = painted(editor["layers"] if editor else [], photo.samples.shape[:2])
        question = Question(photo, hidden, method, seeds, float(sigma_y), seed or 0)
        try:
            for view in restorer.restorations(question, Path(mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]))):
                if asked <= ended.at:
                    yield gr.skip(), gr.skip(), gr.skip()
                    return
                files = gr.Files([str(path) for path in view.files] or None, visible=bool(view.files))
                yield page.paragraph(view.status), to_html(view), files
        except UserError as error:
            gr.Warning(str(error))
            yield page.paragraph(str(error)), gr.skip(), gr.skip()

    def end(ended: Ended, now: float) -> None:
        ended.at = now

    quiet: Any = {"api_visibility": "private", "show_progress": "hidden"}
    said = f"() => ['{page.paragraph('waiting ...')}', Date.now()]"
    first = on.start.click(None, None, [on.status, on.asked], js=said, **quiet)
    asked = [on.photo, on.ended, on.asked, on.editor, on.method, on.seeds, on.sigma_y, on.seed]
    running = first.then(restore, asked, [on.status, on.pictures, on.files], concurrency_limit=1, **quiet)
    shown = [on.photo, on.editor, on.source, on.status, on.pictures, on.files]
    on.examples.select(choose, None, shown, **quiet)
    on.upload.upload(upload, on.upload, shown, **quiet)
    on.editor.clear(on_canvas, on.photo, on.editor, **quiet)
    # The browser cancels only what it has sent: paint may still be on its way, so that the run also looks itself.
    now, enders = "(ended, _) => [ended, Date.now()]", [on.stop.click, on.examples.select, on.upload.upload]
    gr.on(enders, end, [on.ended, on.asked], None, js=now, cancels=[running], queue=False, **quiet)
    on.stop.click(lambda: page.paragraph("Stopped."), None, on.status, queue=False, **quiet)


def show(photo: Photo, source: str) -> tuple[Any, ...]:
    """Returns what a picture that was just chosen changes on the page."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    files = gr.Files(None, visible=False)
    return photo, on_canvas(photo), page.paragraph(source), page.paragraph(TO_DO), "", files


def on_canvas(photo: Photo) -> Any:
    """Returns a picture to paint on."""
    return {"background": to_canvas(photo), "layers": [], "composite": None}


def to_html(view: View) -> str:
    """Returns the pictures of a view as a part of the page."""
    return "".join(page.gallery(row) for row in (view.samples, view.others) if row)


def check_address(host: str, port: int) -> None:
    """Refuses an address that cannot be served on."""
    if not 1 <= port <= 65535:
        raise UserError(f"--port must be between 1 and 65535, got {port}.")
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = (error.strerror or str(error)).split(" (")[0]
        raise UserError(f"cannot serve on {host}:{port} ({reason}); choose another --port or --host.") from error


def check_gradio() -> None:
    """Refuses to go on without gradio, and keeps it from calling home and from keeping a history."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False")
    try:
        import gradio  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f'the demo needs gradio ({error}); `pip install "jaxdiff[demo]"` installs it.') from error


def serve(blocks: Any, config: Config) -> None:
    """Opens the page to the browser, and waits for Ctrl-C or to be ended."""
    from gradio.themes import Default  # pyright: ignore[reportMissingImports]

    # The theme's own fonts may be asked for from another host.
    theme = Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    blocks.queue(default_concurrency_limit=1).launch(
        server_name=config.host,
        server_port=config.port,
        share=False,
        ssr_mode=False,
        footer_links=[],
        max_file_size="20mb",
        theme=theme,
        css=STYLE,
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"open http://{config.host}:{config.port} in a browser; Ctrl-C ends the demo", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        Event().wait()
    finally:
        blocks.close(verbose=False)


def main(config: Config) -> None:
    """Serves the page until Ctrl-C."""
    check_address(config.host, config.port)
    check_gradio()
    restorer = Restorer(load_prior(config.prior, dtype=config.dtype, channels=3), config.steps)
    # Pictures on the page, uploaded ones among them, are files; they go when the demo ends.
    with TemporaryDirectory(prefix="jaxdiff-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        serve(build_page(restorer), config)


if __name__ == "__main__":
    run_script(main, Config, __doc__, "the demo has ended")
