"""Predictions for pictures without labels, one whole at a time or a folder of models."""
