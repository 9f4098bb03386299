"""All properties, the cheap ones first."""

from benchmarks.torture import (
    concurrency,
    damaged_states,
    full_disk,
    hostile_files,
    kills,
    long_runs,
    mutations,
)

PROPERTIES = (
    damaged_states.PROPERTY,
    full_disk.PROPERTY,
    *hostile_files.PROPERTIES,
    *mutations.PROPERTIES,
    *long_runs.PROPERTIES,
    concurrency.PROPERTY,
    kills.PROPERTY,
)
