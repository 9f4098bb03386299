"""Runs a stage with the code of this checkout, whichever copy of partloc is installed.

Python puts the folder of the script first on the import path, so the stages find this module. It
puts the checkout before everything else: `dvc exp run --temp` runs in a copy of the project, and
there the code of the copy has to run.
"""

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def run_stage(name: str) -> None:
    import_module(f"partloc.commands.{name}").main()
