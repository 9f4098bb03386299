"""One module for each command: `python stages/NAME.py` and `partloc NAME` run `main` of it."""
