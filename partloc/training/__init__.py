"""Losses, optimiser, resumable state and the training loop."""
