"""The page of `partloc demo`: drop a whole and parts, see them placed.

It is served by this machine and requests nothing from any other. gradio, of the extra `web`, is
imported in `build_page` alone.
"""

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from partloc.data.background import NO_BACKGROUND_WARNING, load_image
from partloc.data.images import ImageError
from partloc.drawing import PlacedPart, draw_parts
from partloc.inference.estimate import PoseEstimate, make_answer
from partloc.inference.locator_api import Locator

if TYPE_CHECKING:
    import gradio

COLUMNS = ("part", "x", "y", "z", "scale", "confidence")
NO_CAMERA = "The camera of the images is not known, so no places are drawn; give --camera."
EXAMPLES = Path("examples")  # in the current folder or in a clone
# Allows what the page's own scripts do and blocks requests to any other machine, whatever a
# version of gradio asks for.
CONTENT_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; form-action 'self'; frame-ancestors 'self'"
)
STYLE = "footer { display: none !important } #note { white-space: pre-line }"


class PageAnswer(NamedTuple):
    """picture: the parts on the whole, None without one. note: sentences for the reader. rows: a
    row of COLUMNS per part. answer: the JSON that the command `infer` prints."""

    picture: Image.Image | None
    note: str
    rows: list[list[str]]
    answer: Any


class Example(NamedTuple):
    whole: str
    parts: list[str]


def find_examples() -> list[Example]:
    """A whole with its first part, and with all of them; none outside a clone."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[1]):
        for whole in sorted((root / EXAMPLES).glob("*/*-whole.png")):
            parts = sorted(str(p) for p in whole.parent.glob("*.png") if p != whole)
            return [Example(str(whole), parts), Example(str(whole), parts[-1:])]
    return []


# -- answers -----------------------------------------------------------------------------------


def locate(locator: Locator, whole: str | None, parts: Sequence[str] | None) -> PageAnswer:
    """Predict the parts of one whole from the paths of images, and draw them.

    An image that cannot be used is named in the note; the other parts are placed.
    """
    if not whole or not parts:
        return PageAnswer(None, f"Drop an image of {'a part' if whole else 'the whole'}.", [], None)
    try:
        results = locator.predictor.predict(whole, map(Path, parts))
    except (ValueError, FloatingPointError) as error:
        return PageAnswer(None, _sentence(error, whole), [], None)
    notes, names, paths, estimates = [], [], [], []
    for path, result in zip(parts, results, strict=True):
        if isinstance(result, ImageError):
            notes.append(_sentence(result, path))
            continue
        if not result.on_plain:
            notes.append(f"{Path(path).name}: {NO_BACKGROUND_WARNING}")
        names.append(Path(path).name)
        paths.append(path)
        estimates.append(result.to_estimate())
    if locator.camera is None:
        notes.append(NO_CAMERA)
    picture = draw(locator, whole, paths, estimates)
    numbered = enumerate(zip(names, estimates, strict=True), 1)
    rows = [_row(f"{number}  {name}", estimate) for number, (name, estimate) in numbered]
    answer = make_answer(names, estimates, with_hypotheses=False)
    return PageAnswer(picture, "\n".join(notes), rows, answer)


def draw(
    locator: Locator, whole: str, parts: Sequence[str], estimates: Sequence[PoseEstimate]
) -> Image.Image:
    """The parts at their predicted places, numbered in order; only the whole without a camera."""
    max_pixels = locator.predictor.max_pixels
    image = load_image(whole, max_pixels)
    if locator.camera is None:
        return image
    placed = [
        PlacedPart(
            load_image(path, max_pixels),
            np.array([*estimate.translation, estimate.scale]),
            f"{number}: {estimate.confidence:.2f}",
        )
        for number, (path, estimate) in enumerate(zip(parts, estimates, strict=True), 1)
    ]
    return draw_parts(image, placed, locator.camera)


def _row(name: str, estimate: PoseEstimate) -> list[str]:
    numbers = (*estimate.translation, estimate.scale, estimate.confidence)
    return [name, *(f"{number:z.3f}" for number in numbers)]


def _sentence(error: Exception, path: str) -> str:
    """The message with the name of the file instead of its path on this machine."""
    return str(error).replace(path, Path(path).name)


# -- page --------------------------------------------------------------------------------------


def build_page(locator: Locator, camera_text: str) -> "gradio.Blocks":
    """camera_text: which camera is used. Raises: ModuleNotFoundError without gradio."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    import gradio

    def answer(whole: str | None, parts: list[str] | None) -> tuple[Any, str, Any, Any]:
        found = locate(locator, whole, parts)
        return found.picture, html.escape(found.note), found.rows, found.answer

    examples = find_examples()
    first = examples[0] if examples else Example("", [])
    with gradio.Blocks(title="partloc", analytics_enabled=False) as page:
        gradio.HTML("<h1>partloc: where does the part belong?</h1>" + html.escape(camera_text))
        with gradio.Row():
            with gradio.Column(scale=2, min_width=280):
                # Files, not images: gradio would encode these anew, and the answers would change.
                whole = gradio.File(
                    first.whole or None, label="whole: one image", height=110, elem_id="whole"
                )
                parts = gradio.File(
                    first.parts or None,
                    label="parts: one or more images",
                    file_count="multiple",
                    height=170,
                    elem_id="parts",
                )
                button = gradio.Button("Place the parts", variant="primary")
            with gradio.Column(scale=3, min_width=280):
                picture = gradio.Image(
                    label="placed, with number and confidence",
                    type="pil",
                    format="png",
                    buttons=["download", "fullscreen"],
                )
                note = gradio.HTML(elem_id="note")
        table = gradio.Dataframe(
            headers=list(COLUMNS), label="poses", interactive=False, elem_id="poses"
        )
        text = gradio.JSON(label="as `partloc infer` prints it")
        inputs, outputs = [whole, parts], [picture, note, table, text]
        button.click(answer, inputs, outputs, api_name=False)
        if examples:
            gradio.Examples([list(e) for e in examples], inputs, outputs, answer, run_on_click=True)
            page.load(answer, inputs, outputs, api_name=False)
    return page


def serve(page: "gradio.Blocks", host: str, port: int) -> str:
    """Start to serve the page in a thread. Returns: its address.

    Raises: OSError if the port is in use.
    """
    from starlette.middleware import Middleware

    middleware = [Middleware(_PolicyMiddleware)]
    try:
        _, address, _ = page.launch(
            prevent_thread_lock=True,
            share=False,
            quiet=True,
            server_name=host,
            server_port=port,
            ssr_mode=False,
            mcp_server=False,
            footer_links=[],
            css=STYLE,
            app_kwargs={"middleware": middleware},
        )
    except OSError as error:
        raise OSError(f"{host}:{port}: cannot be used ({error}); give another --port") from error
    return address


class _PolicyMiddleware:
    """Adds CONTENT_POLICY to every response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", CONTENT_POLICY.encode())
                message = message | {"headers": [*message["headers"], header]}
            await send(message)

        await self.app(scope, receive, send_with_policy)
