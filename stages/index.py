"""Stage `index`; the code is `partloc/commands/index.py`."""

from _checkout import run_stage

if __name__ == "__main__":
    run_stage("index")
