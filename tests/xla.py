"""Which options this version of XLA has. Imports no JAX."""

from importlib.metadata import version

# XLA always uses its fusion emitters since 0.12, and refuses the option.
HAS_OLD_EMITTERS = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12)
# Compiles as outside of tests (conftest.py): without this, programs that differ round differently.
FUSED = {"xla_cpu_use_fusion_emitters": True} if HAS_OLD_EMITTERS else {}
