"""From image folders to batches: index, split, pair table, sampler, transforms, data set."""
