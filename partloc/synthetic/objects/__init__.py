"""One file for each kind of procedural object."""
