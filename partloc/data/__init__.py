"""Data: from image folders to batches."""
