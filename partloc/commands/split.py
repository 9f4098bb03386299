"""Stage `split`: divide the models among training, validation and test.

Reads   {output_dir}/manifest.csv, params.yaml
Writes  {output_dir}/split/{train,val,test}.csv, metrics/split.json

    $ python stages/split.py --config params.yaml
"""

import sys
from pathlib import Path

from partloc.cli import make_parser, run_command
from partloc.config import load_config
from partloc.data.split import (
    SETS,
    count_split,
    find_shared,
    limit_training,
    read_manifest,
    split_models,
    summary,
)
from partloc.files import write_json, write_table


def run() -> None:
    parser = make_parser(__doc__)
    config = load_config(parser.parse_args().config)
    data, output_dir = config.data, Path(config.data.output_dir)

    manifest = read_manifest(output_dir / "manifest.csv")
    ratios = (data.train_ratio, data.val_ratio, data.test_ratio)
    chosen = split_models(manifest.model, ratios, config.seed)
    chosen = limit_training(chosen, data.max_train_models, config.seed)
    manifest = manifest[manifest.model.isin(chosen)]
    shared = find_shared(manifest, chosen)
    counts = count_split(manifest, chosen, shared)
    print(summary(counts, shared), file=sys.stderr)

    for name in SETS:
        write_table(
            output_dir / "split" / f"{name}.csv", manifest[manifest.model.map(chosen) == name]
        )
    write_json(Path("metrics/split.json"), counts)


def main() -> None:
    run_command(run)
