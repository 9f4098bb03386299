"""Whether this machine, the installation and the data are ready for a training at full size."""
