"""Trainings of the weights in `partloc/weights`; no stage of the pipeline runs them."""
