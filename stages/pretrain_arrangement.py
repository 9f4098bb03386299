"""Make partloc/weights/arrangement.pth: the network that judges the places of equal parts together.

Renders procedural objects that neither the demo nor the pretraining of poses has, lets the shipped
encoder propose places for their equal parts, and trains on these; writes the weights in half
precision with a checksum and the figures of the training. Interrupted, the same command goes on
where it stopped. An hour on one core; no stage of the pipeline runs it.

Reads   params.yaml (pretrain, seed, demo.image_size, data), partloc/weights/{encoder}.pth
Writes  data/pretrain-arrangement, runs/pretrain-arrangement, and OUT with .sha256 and .json

    $ make pretrain
    $ python stages/pretrain_arrangement.py --out mine.pth
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partloc.arrangement import ARRANGEMENT_WEIGHTS  # noqa: E402
from partloc.arrangement_training import draw_groups, train_arrangement  # noqa: E402
from partloc.command import make_parser, run_command  # noqa: E402
from partloc.config import load_config  # noqa: E402
from partloc.run import runs_root  # noqa: E402

GROUPS = Path("data/pretrain-arrangement")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=ARRANGEMENT_WEIGHTS,
        metavar="FILE",
        help=f"default {ARRANGEMENT_WEIGHTS.name} beside the code",
    )
    args = parser.parse_args()
    config = load_config(args.config)
    weights = Path("partloc/weights", f"{config.model.backbone_name}.pth")
    draw_groups(GROUPS, config, weights, config.machine.num_processes or os.cpu_count())
    train_arrangement(config, GROUPS, weights, runs_root("pretrain-arrangement"), args.out)


if __name__ == "__main__":
    run_command(main, stopped="stopped; the same command goes on")
