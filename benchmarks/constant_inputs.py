"""What each input of the network is worth: errors of one trained model with an input constant.

- encoder: all tokens are their mean, so the features of the encoder tell nothing
- cross-attention: its features are those of its last layer's bias
- depth maps: zero everywhere

The differences are paired: the same parts, with 95 % intervals over models.

    $ python -m benchmarks.constant_inputs --output metrics/constant_inputs.json
    $ python -m benchmarks.constant_inputs --checkpoint partloc/weights/dinov2_vitt14.pth \\
          --data-dir my/renders
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import benchmark_parser
from benchmarks.errors import accumulate_errors
from benchmarks.metric_tables import constant_inputs_table
from partloc.config import Config, load_config
from partloc.data.index import build_index
from partloc.data.split import read_manifest
from partloc.data.table import PairTable
from partloc.evaluation.metrics import bootstrap
from partloc.model.model_file import load_model
from partloc.model.proposals import ProposalLocator
from partloc.system.cli import run_command
from partloc.system.files import write_json


@torch.no_grad()
def hold_encoder(model: ProposalLocator) -> None:
    model.token_gate.zero_()  # projected tokens have zero mean


@torch.no_grad()
def hold_attention(model: ProposalLocator) -> None:
    last = model.cross_attention.output[-1]
    assert isinstance(last, nn.Linear)
    last.weight.zero_()


def hold_depth_maps(model: ProposalLocator) -> None:
    model.depth_net = None


VARIANTS: dict[str, Callable[[ProposalLocator], None]] = {
    "encoder: constant": hold_encoder,
    "cross-attention: constant": hold_attention,
    "depth maps: zero": hold_depth_maps,
}


def predict_errors(model: ProposalLocator, config: Config, table: PairTable) -> dict[str, Tensor]:
    errors = accumulate_errors(model, config, table, table).errors
    return {name: errors[name] for name in ("translation_error", "assigned_error")}


def measure(checkpoint: Path, config: Config, table: PairTable) -> list[dict[str, Any]]:
    model = load_model(checkpoint)
    if not isinstance(model, ProposalLocator):
        raise ValueError(f"{checkpoint}: expected a model with template matching")
    whole = predict_errors(model, config, table)
    rows = [_row("all inputs", whole, whole, table, config.seed)]
    for name, hold in VARIANTS.items():
        changed = copy.deepcopy(model)
        hold(changed)
        rows.append(_row(name, predict_errors(changed, config, table), whole, table, config.seed))
    return rows


def _row(
    name: str, errors: dict[str, Tensor], whole: dict[str, Tensor], table: PairTable, seed: int
) -> dict[str, Any]:
    difference = {key: errors[key] - whole[key] for key in errors}
    intervals = bootstrap(errors, table.models, seed), bootstrap(difference, table.models, seed)
    return {"variant": name, "parts": len(table)} | {
        key: {
            "mean": errors[key].mean().item(),
            "interval_95": intervals[0][key]["mean"],
            "difference": difference[key].mean().item(),
            "difference_interval_95": intervals[1][key]["mean"],
        }
        for key in errors
    }


def read_table(args: argparse.Namespace, config: Config) -> PairTable:
    """The test split of the pipeline, or all samples of --data-dir."""
    if args.data_dir is None:
        split = Path(config.data.output_dir, "split", "test.csv")
        return PairTable(read_manifest(split), Path(config.data.data_dir))
    data = config.data.model_copy(update={"data_dir": str(args.data_dir)})
    return PairTable(build_index(data, config.machine.used_processes).manifest, args.data_dir)


def main() -> None:
    parser = benchmark_parser(__doc__, config=Path("params.yaml"))
    parser.add_argument("--checkpoint", type=Path, default=Path("models/best_model.pth"))
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="default: the test split")
    args = parser.parse_args()
    config = load_config(args.config)
    rows = measure(args.checkpoint, config, read_table(args, config))
    if args.output:
        write_json(args.output, {"rows": rows})
    print(constant_inputs_table(rows))


if __name__ == "__main__":
    run_command(main)
