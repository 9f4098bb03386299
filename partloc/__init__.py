"""partloc: where does a part belong in a whole 3D model, from one image of each."""
