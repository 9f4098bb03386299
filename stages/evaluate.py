"""Stage `evaluate`. Its code is in partloc/commands/evaluate.py."""

from _checkout import run_stage

if __name__ == "__main__":
    run_stage("evaluate")
