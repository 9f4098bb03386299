"""Command `export`: write the network behind the encoder as an ONNX file.

The file predicts one pair: its inputs are tokens, crop and cropped image of a whole and of a part,
as `PartLocator.encode` makes them with any encoder; its outputs are all hypotheses. It is compared
with PyTorch before it is written. Needs the packages of the extra `onnx`.

    $ partloc export --output partloc.onnx
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from partloc.commands.infer import PIPELINE_MODEL, choose_checkpoint
from partloc.system.cli import importing, make_parser, run_command

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def run() -> None:
    parser = make_parser(__doc__, config=None)
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FILE", help="the file to write")
    add("--checkpoint", type=Path, metavar="FILE", help=f"default {PIPELINE_MODEL}")
    args = parser.parse_args()
    for package in PACKAGES:  # before the model is loaded
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    checkpoint = choose_checkpoint(args.checkpoint)
    with importing():
        from partloc.export import export_onnx
        from partloc.model.model_file import load_model

    difference = export_onnx(load_model(checkpoint), args.output)
    print(f"differs from PyTorch by at most {difference:.1g}", file=sys.stderr)
    print(f"written: {args.output}", file=sys.stderr)


def main() -> None:
    run_command(run)
