"""Stage `evaluate`; the code is `partloc/commands/evaluate.py`."""

from _checkout import run_stage

if __name__ == "__main__":
    run_stage("evaluate")
