"""The commands: each top-level module is one, run as `python -m experiments.<name>`."""
