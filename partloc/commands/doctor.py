"""Check whether a training at full size can start here; takes seconds and changes nothing.

Looks at the installed packages, the device, the memory of a training step, the weights, the names
of the files in the data folder, rendering, and the state of the project. The last line is the
verdict. Exit status 0: it can start; 1: it cannot, for the reasons listed.

The configuration is that of params.yaml or, if this is the demo's or there is none, the full-size
one, to which `python -m partloc.config --full-size` sets params.yaml.

    $ partloc doctor
    $ partloc doctor --data-dir my/renders --json
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partloc.system.cli import make_parser, run_command

if TYPE_CHECKING:
    from partloc.config import Config
    from partloc.diagnosis.environment import Check

NOT_READY_STATUS = 1
DEMO_DATA, DEMO_BACKBONE = "data/demo", "dinov2_vitt14"


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="default data.data_dir")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def choose_config(path: Path) -> tuple["Config", str]:
    """The configuration to check, and a sentence about which one it is.

    Raises: ConfigError if the file is invalid.
    """
    from partloc.config import Config, load_config

    full_size = Config()
    if not path.is_file():
        return full_size, f"full size; there is no {path}"
    try:
        config = load_config(path)
    except ModuleNotFoundError as error:
        return full_size, f"full size; {path} cannot be read without {error.name}"
    if config.model.backbone_name != DEMO_BACKBONE:
        return config, str(path)
    data_dir = config.data.data_dir
    if data_dir != DEMO_DATA:
        data = full_size.data.model_copy(update={"data_dir": data_dir})
        full_size = full_size.model_copy(update={"data": data})
    full_size = full_size.model_copy(update={"machine": config.machine})
    return full_size, f"full size; {path} is the demo's"


def run_checks(args: argparse.Namespace) -> tuple[str, list["Check"]]:
    """Which configuration was checked, and all checks."""
    import torch

    from partloc.diagnosis.environment import (
        check_device,
        check_project,
        check_rendering,
        check_software,
    )
    from partloc.diagnosis.full_size import check_data, check_memory, check_weights

    config, description = choose_config(args.config)
    device = check_device(config.machine.device)
    precision = torch.bfloat16 if config.train.use_amp else None
    checks = [
        check_software(),
        device,
        check_memory(config, device.facts["free_gb"], precision),
        check_weights(config.model),
        check_data(args.data_dir or Path(config.data.data_dir)),
        check_rendering(),
        check_project(Path()),
    ]
    return description, checks


def format_report(description: str, checks: list["Check"]) -> str:
    lines = [f"configuration: {description}"]
    for check in checks:
        lines.append(check.name)
        lines += [f"  {key:18} {_format(value)}" for key, value in check.facts.items()]
    problems = [problem for check in checks for problem in check.problems]
    lines.append("")
    lines += [f"problem: {problem}" for problem in problems]
    lines.append("not ready for full size" if problems else "ready for full size")
    return "\n".join(lines)


def _format(value: Any) -> str:
    if isinstance(value, dict):
        parts = (f"{key}: {', '.join(items)}" for key, items in value.items())
        return "; ".join(parts) or "nothing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def as_json(description: str, checks: list["Check"]) -> dict[str, Any]:
    problems = [problem for check in checks for problem in check.problems]
    facts = {check.name: check.facts for check in checks}
    verdict = {"ready": not problems, "problems": problems}
    return {"configuration": description, **facts, **verdict}


def run() -> None:
    args = parse()
    description, checks = run_checks(args)
    if args.json:
        print(json.dumps(as_json(description, checks), ensure_ascii=False))
    else:
        print(format_report(description, checks))
    if any(check.problems for check in checks):
        sys.stdout.flush()
        sys.exit(NOT_READY_STATUS)


def main() -> None:
    run_command(run)
