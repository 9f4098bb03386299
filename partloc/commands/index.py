"""Stage `index`: find all usable samples, and report why others are not usable.

Reads   the folder data.data_dir, params.yaml
Writes  {output_dir}/manifest.csv, {output_dir}/index_report.csv, {output_dir}/index_counts.json

    $ python stages/index.py --config params.yaml
"""

from pathlib import Path

from partloc.config import load_config
from partloc.data.index import build_index, count_findings, format_summary
from partloc.system.cli import make_parser, print_summary, run_command
from partloc.system.files import locked_folder, write_json, write_table


def run() -> None:
    parser = make_parser(__doc__)
    config = load_config(parser.parse_args().config)

    index = build_index(config.data, workers=config.machine.used_processes)
    output_dir = Path(config.data.output_dir)
    with locked_folder(output_dir):
        write_table(output_dir / "manifest.csv", index.manifest)
        write_table(output_dir / "index_report.csv", index.report)
        write_json(output_dir / "index_counts.json", count_findings(index))
    print_summary(
        format_summary(index), output_dir / "manifest.csv", output_dir / "index_report.csv"
    )


def main() -> None:
    run_command(run)
