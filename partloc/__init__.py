"""partloc: predict the pose of a part in a whole 3-D model, from one image of each."""

__version__ = "0.1.0"
