"""Error figures of a split, and the report of single cases."""
