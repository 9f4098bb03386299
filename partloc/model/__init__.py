"""The network, its parts, and the file that it is stored in."""
