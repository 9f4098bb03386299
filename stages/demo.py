"""Stage `demo`. Its code is in partloc/commands/demo.py."""

from _checkout import run_stage

if __name__ == "__main__":
    run_stage("demo")
