"""Stage `split`. Its code is in partloc/commands/split.py."""

from _checkout import run_stage

if __name__ == "__main__":
    run_stage("split")
