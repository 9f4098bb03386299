"""Stage `demo`: render a procedural data set in the folder layout of user data.

Reads   params.yaml
Writes  data/demo (a folder for each model)

    $ python stages/demo.py --config params.yaml --out data/demo
"""

from pathlib import Path

from partloc.config import load_config
from partloc.synthetic.dataset import DEMO_IMAGE_PX, write_dataset
from partloc.synthetic.render import check_opengl
from partloc.system.cli import make_parser, run_command
from partloc.system.files import locked_folder


def run() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("data/demo"), metavar="DIR", help="default data/demo"
    )
    args = parser.parse_args()
    config = load_config(args.config)
    num_models, workers = config.demo.num_models, config.machine.used_processes
    check_opengl()
    with locked_folder(args.out):
        counts = write_dataset(args.out, num_models, DEMO_IMAGE_PX, config.seed, workers)
    print(f"{args.out}: {num_models} models, {counts.total()} parts, {len(counts)} families")
    for family, count in sorted(counts.items()):
        print(f"  {family:12} {count:5} parts")


def main() -> None:
    run_command(run)
