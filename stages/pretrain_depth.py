"""Make partloc/weights/depth.pth: the network that tells depth maps, for all encoders alike.

Renders procedural objects that the demo does not have, as `stages/pretrain.py` does, with the depth
of each pixel, trains on them and writes the weights in half precision with a checksum and the
figures of the training. Interrupted, the same command goes on where it stopped. Made for a
GPU, hours on two cores; no stage of the pipeline runs it.

Reads   params.yaml (pretrain, seed, demo.image_size, data.read_size)
Writes  data/pretrain-depth, runs/pretrain-depth, and OUT with .sha256 and .json beside it

    $ make pretrain
    $ torchrun --nproc-per-node 2 stages/pretrain_depth.py --config params.yaml
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partloc.command import make_parser, run_command  # noqa: E402
from partloc.config import load_config  # noqa: E402
from partloc.depth import DEPTH_WEIGHTS  # noqa: E402
from partloc.depth_training import draw_studies, train_depth  # noqa: E402
from partloc.run import runs_root  # noqa: E402
from partloc.team import join_team  # noqa: E402

STUDIES = Path("data/pretrain-depth")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=DEPTH_WEIGHTS,
        metavar="FILE",
        help=f"default {DEPTH_WEIGHTS.name} beside the code",
    )
    args = parser.parse_args()
    config = load_config(args.config)
    patience = timedelta(hours=12)  # of which most is drawing
    with join_team(config.machine.device, patience) as team:
        if team.leads:
            draw_studies(STUDIES, config, config.machine.num_processes or os.cpu_count())
        team.wait()
        train_depth(config, STUDIES, runs_root("pretrain-depth"), team, args.out)


if __name__ == "__main__":
    run_command(main, stopped="stopped; the same command goes on")
