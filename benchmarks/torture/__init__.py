"""Attacks on the project: kills, damaged and hostile files, full disks, concurrent commands.

The toys, the damages and the processes are those of the tests.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
