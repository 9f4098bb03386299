"""The report page: one HTML file with the figures, charts and all cases of a run, for a browser."""
