"""Procedural 3-D models and their rendering: the demo data set and the pretraining data."""
