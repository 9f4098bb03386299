"""Training: losses, optimiser, resumable state, token cache and the training loop."""
