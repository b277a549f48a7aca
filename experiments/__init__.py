"""Command lines, each a thin file over cgan_jax. Run one as `python -m experiments.NAME`."""
