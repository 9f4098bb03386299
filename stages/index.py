"""Stage `index`. Its code is in partloc/commands/index.py."""

from _checkout import run_stage

if __name__ == "__main__":
    run_stage("index")
