"""Trainings of the weights that come with the code; no stage of the pipeline runs them."""
