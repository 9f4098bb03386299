"""Stage `train`. Its code is in partloc/commands/train.py."""

from _checkout import run_stage

if __name__ == "__main__":
    run_stage("train")
