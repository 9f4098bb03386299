"""Prediction from images without labels, for one whole or for many models."""
