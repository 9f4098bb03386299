"""Stage `infer`. Its code is in partloc/commands/infer.py."""

from _checkout import run_stage

if __name__ == "__main__":
    run_stage("infer")
