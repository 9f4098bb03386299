"""Run a stage with the code of this checkout, even if another copy of partloc is installed.

Python puts the folder of a script first on the import path, so the stages find this module. It puts
the checkout before all other entries: `dvc exp run --temp` runs the stages in a copy of the
project, and the code of that copy has to run.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def run_stage(name: str) -> None:
    from partloc.system.cli import exit_on_signals, load_command

    exit_on_signals()
    load_command(name)()
