"""Procedural objects and their pictures: the demo data set, and what pretraining draws."""
