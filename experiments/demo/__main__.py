"""A page in the browser: hide a part of a face with the mouse, and watch samples of what may have been there appear.

python -m experiments.demo
python -m experiments.demo --prior priors/ffhq-256 --steps 250 --port 8000

It needs gradio: pip install "jaxdiff[demo]". By default only this machine can open the page, and nothing leaves it.
"""

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from experiments.demo.restorer import Question, Restorer, View, painted, read_upload
from experiments.shared.command import run_script
from experiments.shared.problems import held_out_face
from jaxdiff import load_prior
from jaxdiff.cli.restore import NOT_EVIDENCE
from jaxdiff.errors import UserError
from jaxdiff.images.files import to_uint8
from jaxdiff.networks.precision import Dtype
from jaxdiff.runs import page
from jaxdiff.runs.methods import METHODS

FACES = 8
"""Held-out faces to choose from."""

CANVAS = 384
"""Pixels that a side of the picture to paint on fills, as far as a whole number of times goes."""

PAINT = "#e0218a"

TO_DO = "Paint over a part of the picture, then press Restore."

TITLE = """<h1>Restore what is hidden</h1><p>Choose a face or upload one, paint over a part of it with the mouse, and
press Restore. A diffusion prior then draws several pictures that agree with the rest.</p>"""

STYLE = """
#faces .grid-wrap { min-height: 0; height: auto }
#faces .grid-container { grid: auto / repeat(8, minmax(0, 1fr)) !important; grid-auto-rows: auto !important; gap: 6px }
.html-container { padding: 4px 0 0 !important }
#pictures .row { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px }
#pictures figure { max-width: 256px; margin: 0 0 8px }
#pictures img { width: 100%; image-rendering: pixelated }
#pictures figcaption { opacity: 0.75; font-size: 13px }
"""


@dataclass(frozen=True)
class Config:
    """Flags of the demo."""

    prior: str = "faces-32"
    """A shipped prior, or a folder written by `python -m convert_weights`."""
    dtype: Dtype = "float32"
    """Precision of the network's products: tf32 and bfloat16 are faster on GPUs and TPUs, not on CPUs."""
    steps: int = 100
    """Diffusion steps of a whole chain; the literature takes 1000."""
    host: str = "127.0.0.1"
    """Address to serve on; 0.0.0.0 opens the page to everybody who can reach this machine."""
    port: int = 7860
    """Port to serve on."""


class Widgets(NamedTuple):
    """The parts of the page that something happens to."""

    picture: Any
    faces: Any
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


def build_page(restorer: Restorer) -> Any:
    """Builds the page."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    faces = [np.asarray(held_out_face(k, restorer.size[0])) for k in range(FACES)]
    with gr.Blocks(title="jaxdiff demo", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as blocks:
        gr.HTML(TITLE)
        with gr.Row():
            with gr.Column(scale=0, min_width=CANVAS + 76):
                left = lay_out_left(faces)
            with gr.Column(scale=1, min_width=400):
                right = lay_out_right()
        gr.HTML(f"<footer>{page.paragraph(NOT_EVIDENCE)}</footer>")
        connect(Widgets(gr.State(faces[0]), *left, *right), restorer, faces)
    return blocks


def lay_out_left(faces: list[Float[np.ndarray, "h w 3"]]) -> list[Any]:
    """Puts down what chooses a picture and paints on it."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    pictures = [enlarge(face) for face in faces]
    gallery = gr.Gallery(
        pictures,
        label="Choose a face",
        show_label=False,
        columns=FACES,
        format="png",
        selected_index=0,
        allow_preview=False,
        buttons=[],
        elem_id="faces",
    )
    upload = gr.UploadButton("or upload a picture", file_types=["image"], size="sm")
    source = gr.HTML(page.paragraph("Face 0, held out of training."), elem_id="source")
    editor = gr.ImageEditor(
        on_canvas(faces[0]),
        label="Paint over what is to be hidden",
        sources=[],
        transforms=[],
        layers=False,
        format="png",
        brush=gr.Brush(CANVAS // 20, [PAINT], PAINT, "fixed"),
        eraser=gr.Eraser(CANVAS // 20),
        canvas_size=(len(pictures[0]), len(pictures[0])),
        fixed_canvas=True,
        height=CANVAS + 64,
        buttons=[],
        elem_id="editor",
    )
    return [gallery, upload, source, editor]


def lay_out_right() -> list[Any]:
    """Puts down what asks for samples and shows them."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    with gr.Row():
        method = gr.Radio([(row.name, key) for key, row in METHODS.items()], value="dps", label="Method", min_width=300)
        seeds = gr.Slider(1, 8, 4, step=1, label="Samples", min_width=200)
    with gr.Row():
        sigma_y = gr.Slider(0, 0.2, 0, step=0.01, label="Noise to add, in [-1, 1] units", min_width=300)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, min_width=200)
    with gr.Row():
        start = gr.Button("Restore", variant="primary")
        stop = gr.Button("Stop")
    status = gr.HTML(page.paragraph(TO_DO), elem_id="status")
    return [method, seeds, sigma_y, seed, start, stop, status, gr.HTML("", elem_id="pictures")]


def connect(on: Widgets, restorer: Restorer, faces: list[Float[np.ndarray, "h w 3"]]) -> None:
    """Says what happens when something is pressed."""
    import gradio as gr  # pyright: ignore[reportMissingImports]

    def choose(event: gr.SelectData) -> tuple[Any, ...]:
        return show(faces[event.index], f"Face {event.index}, held out of training.")

    def upload(path: str) -> tuple[Any, ...]:
        try:
            return show(*read_upload(Path(path), restorer.size))
        except UserError as error:
            gr.Warning(str(error))
            return gr.skip(), gr.skip(), page.paragraph(str(error)), gr.skip(), gr.skip()

    def restore(image: Any, editor: Any, method: str, seeds: int, sigma_y: float, seed: int | None) -> Iterator[Any]:
        hidden = painted(editor["layers"] if editor else [], restorer.size)
        try:
            for view in restorer.restorations(Question(image, hidden, method, seeds, float(sigma_y), seed or 0)):
                yield page.paragraph(view.status), to_html(view)
        except UserError as error:
            gr.Warning(str(error))
            yield page.paragraph(str(error)), gr.skip()

    quiet: Any = {"api_visibility": "private", "show_progress": "hidden"}
    asked = [on.picture, on.editor, on.method, on.seeds, on.sigma_y, on.seed]
    on.start.click(None, None, on.status, js=f"() => '{page.paragraph('waiting ...')}'", **quiet)
    running = on.start.click(restore, asked, [on.status, on.pictures], concurrency_limit=1, **quiet)
    shown = [on.picture, on.editor, on.source, on.status, on.pictures]
    on.faces.select(choose, None, shown, cancels=[running], **quiet)
    on.upload.upload(upload, on.upload, shown, cancels=[running], **quiet)
    on.editor.clear(on_canvas, on.picture, on.editor, **quiet)
    stopped = on.stop.click(None, cancels=[running])
    stopped.then(lambda: page.paragraph("Stopped."), None, on.status, queue=False, **quiet)


def show(image: Float[np.ndarray, "h w 3"], source: str) -> tuple[Any, ...]:
    """Returns what a picture that was just chosen changes on the page."""
    return image, on_canvas(image), page.paragraph(source), page.paragraph(TO_DO), ""


def enlarge(image: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Repeats the pixels of a small image up to the size of the canvas."""
    times = max(CANVAS // len(image), 1)
    return to_uint8(image).repeat(times, axis=0).repeat(times, axis=1)


def on_canvas(image: Float[np.ndarray, "h w 3"]) -> Any:
    """Returns a picture to paint on."""
    return {"background": enlarge(image), "layers": [], "composite": None}


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
