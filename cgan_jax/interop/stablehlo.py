"""A generator as a StableHLO program with its weights, which needs only JAX and flatbuffers."""

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax import export

from cgan_jax.checks import errors_as
from cgan_jax.errors import DataError
from cgan_jax.files import atomic_write
from cgan_jax.interop.exported import ExportedGenerator, images_function, symbolic_inputs
from cgan_jax.sampling.generator import TrainedGenerator
from cgan_jax.sampling.generator_file import check_metadata, metadata

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, METADATA = "generator.stablehlo", "metadata.json"


def save_stablehlo(path: str | os.PathLike[str], generator: TrainedGenerator) -> None:
    """Write a generator as a program for CPUs, NVIDIA GPUs and TPUs, for batches of any size.

    The file is a zip archive: programs that `jax.export` serialises have no place for metadata and
    no checksums. `generator.stablehlo` in it is for `jax.export.deserialize`; its
    `call(latent, labels)` has the arguments and the result of `ExportedGenerator`. `metadata.json`
    is the table of `metadata`. JAX reads such programs for at least six months (its compatibility
    guarantee); cgan_jax and Flax need not be installed.

    Args:
        path: the file, by convention with the suffix `.zip`; an older one of that name is replaced.
        generator: any generator, of the library's module or of your own.

    Raises:
        RunError: the file cannot be written.
    """
    images = jax.jit(images_function(generator))
    # By default, GPUs and TPUs round the factors of products to fewer bits than float32 has.
    with _without_source_paths(), jax.default_matmul_precision("highest"):
        program = export.export(images, platforms=PLATFORMS)(*symbolic_inputs(generator))
    table = json.dumps(metadata(generator), indent=2)
    with atomic_write(Path(path)) as temporary, zipfile.ZipFile(temporary, "w") as file:
        # ZipInfo's date is 1980-01-01: the same generator gives the same bytes.
        for name, data in ((PROGRAM, bytes(program.serialize())), (METADATA, table)):
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def load_stablehlo(path: str | os.PathLike[str]) -> ExportedGenerator:
    """Read what `save_stablehlo` wrote.

    Raises:
        DataError: the file is missing, damaged or of another kind.
    """
    then = "expected a zip archive with a program that JAX exported\nExport it again."
    with errors_as(DataError, f"{path} cannot be read", then), zipfile.ZipFile(path) as file:
        table = json.loads(file.read(METADATA))
        program = export.deserialize(bytearray(file.read(PROGRAM)))
    return ExportedGenerator(program.call, check_metadata(table, path))


@contextmanager
def _without_source_paths() -> Iterator[None]:
    """Keep the paths of source files, and so of local folders, out of JAX's programs."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
