"""Error metrics of the predictions for a split, and images of single cases."""
