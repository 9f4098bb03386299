"""Command `demo`: a page in the browser: drop a whole and one or more parts, see them placed.

The page is served by this machine, needs no connection to any other, and stops with Ctrl-C. It
needs the package gradio: pip install '.[web]' in a clone. The answers are those of `partloc infer`,
and so are --checkpoint, --device and --camera. Other machines can open the page only with another
--host, e.g. 0.0.0.0; there is no password.

    $ partloc demo
    $ partloc demo --port 8000 --camera=-20,10,45
"""

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from threading import Event

from partloc.commands.infer import (
    PIPELINE_MODEL,
    camera_message,
    choose_checkpoint,
    parse_camera,
)
from partloc.system.cli import gc_paused, importing, make_parser, positive_int, run_command

HOST, PORT = "127.0.0.1", 7860


def run() -> None:
    parser = make_parser(__doc__, config=None)
    add = parser.add_argument
    add("--host", default=HOST, metavar="NAME", help=f"address to listen at; default {HOST}")
    add("--port", type=positive_int, default=PORT, metavar="N", help=f"default {PORT}")
    add("--checkpoint", type=Path, metavar="FILE", help=f"default {PIPELINE_MODEL}")
    add("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda, cuda:1 or mps")
    camera_help = "azimuth, elevation and field of view in degrees, as of `partloc infer`"
    add("--camera", type=parse_camera, metavar="A,E,F", help=camera_help)
    args = parser.parse_args()
    if find_spec("gradio") is None:  # before the model is loaded
        raise ModuleNotFoundError("No module named 'gradio'", name="gradio")
    checkpoint = choose_checkpoint(args.checkpoint)
    with tempfile.TemporaryDirectory(prefix="partloc-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of the images that are dropped
        with importing(), gc_paused():
            from partloc.inference.locator_api import Locator
            from partloc.web import build_page, serve

            locator = Locator(checkpoint, args.device, camera=args.camera)
            page = build_page(locator, camera_message(locator, args))
        address = serve(page, args.host, args.port)
        print(f"open {address} in a browser; stop with Ctrl-C", file=sys.stderr)
        try:
            Event().wait()  # until a signal
        finally:
            page.close(verbose=False)


def main() -> None:
    run_command(run)
