"""Stage `split`: divide the models into training, validation and test data.

Reads   {output_dir}/manifest.csv, params.yaml
Writes  {output_dir}/split/{train,val,test}.csv, {output_dir}/split/counts.json

    $ python stages/split.py --config params.yaml
"""

from pathlib import Path

from partloc.config import load_config
from partloc.data.split import (
    SPLITS,
    count_split,
    find_shared_images,
    format_summary,
    limit_training_models,
    read_manifest,
    split_models,
)
from partloc.system.cli import make_parser, print_summary, run_command
from partloc.system.files import locked_folder, write_json, write_table


def run() -> None:
    parser = make_parser(__doc__)
    config = load_config(parser.parse_args().config)
    data, output_dir = config.data, Path(config.data.output_dir)

    manifest = read_manifest(output_dir / "manifest.csv")
    ratios = (data.train_ratio, data.val_ratio, data.test_ratio)
    split_of_model = split_models(manifest.model, ratios, config.seed)
    split_of_model = limit_training_models(split_of_model, data.max_train_models, config.seed)
    manifest = manifest[manifest.model.isin(split_of_model)]
    shared = find_shared_images(manifest, split_of_model)
    counts = count_split(manifest, split_of_model, shared)

    row_splits = manifest.model.map(split_of_model)
    with locked_folder(output_dir / "split"):
        for split in SPLITS:
            write_table(output_dir / "split" / f"{split}.csv", manifest[row_splits == split])
        write_json(output_dir / "split" / "counts.json", counts)
    print_summary(format_summary(counts, shared), output_dir / "split")


def main() -> None:
    run_command(run)
