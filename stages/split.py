"""Stage `split`; the code is `partloc/commands/split.py`."""

from _checkout import run_stage

if __name__ == "__main__":
    run_stage("split")
