"""The command line, worker processes and files: what all commands share."""
