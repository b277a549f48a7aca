"""Inception's features for the FID (Heusel et al. 2017), for users who have its weights.

Nothing is downloaded. The file is a TorchScript module such as `inception-2015-12-05.pt` of
NVIDIA's StyleGAN code; PyTorch (extra `torch`) runs it.
"""

import warnings
from collections.abc import Callable
from functools import partial
from os import PathLike
from typing import Any

import numpy as np

from cgan_jax.checks import errors_as
from cgan_jax.errors import DataError
from cgan_jax.metrics.inputs import chunks

CHUNK = 50  # images of 299 x 299 at a time
SIZE, FEATURES = 299, 2048

Features = Callable[[np.ndarray, Callable[[int], None]], np.ndarray]


def load_inception(path: str | PathLike[str]) -> Features:
    """Load a TorchScript Inception as a function from images to features.

    The protocol: a grey channel is repeated three times; images are enlarged to 299 x 299 by
    bilinear interpolation (`align_corners=False`); pixels are floats in 0..255; the module returns
    its last pooling layer, `[N, 2048]`. An argument `return_features` of its `forward` is set; such
    a module scales the pixels itself.

    Args:
        path: the file. It contains a program, which is run: use only a file that you trust.

    Returns:
        a function of images, uint8 `[N, H, W, C]`, and of a callback that is called after each
        chunk with its number of images; it returns features, float32 `[N, 2048]`.

    Raises:
        DataError: the file is missing or is not TorchScript, or PyTorch is not installed. The
            function raises it if the module returns something else.
    """
    what = "Inception's features need PyTorch, which is not installed"
    then = "expected the extra `torch`\nInstall it with `pip install -e '.[torch]'`."
    with errors_as(DataError, what, then, ImportError):
        import torch
    then = (
        "expected a TorchScript module that returns [N, 2048]\n"
        "Name the file inception-2015-12-05.pt of NVIDIA's StyleGAN code, or one like it."
    )
    with errors_as(DataError, f"{path} cannot be read as Inception", then):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about TorchScript itself
            module = torch.jit.load(str(path), map_location="cpu").eval()
        arguments = [argument.name for argument in module.forward.schema.arguments]
    options = {"return_features": True} if "return_features" in arguments else {}
    return partial(_features, partial(module, **options), path)


def _features(
    module: Callable[..., Any],
    path: str | PathLike[str],
    images: np.ndarray,
    on_chunk: Callable[[int], None],
) -> np.ndarray:
    import torch

    outputs = []
    for rows in chunks(len(images), CHUNK):
        chunk = torch.from_numpy(np.array(images[rows], np.float32))
        planes = chunk.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
        with torch.no_grad():
            enlarged = torch.nn.functional.interpolate(
                planes, size=(SIZE, SIZE), mode="bilinear", align_corners=False
            )
            output = module(enlarged)
        if not isinstance(output, torch.Tensor) or output.shape != (len(chunk), FEATURES):
            shape = list(getattr(output, "shape", ()))
            raise DataError(
                f"the module in {path} returns {type(output).__name__} {shape}\n"
                f"expected features [{len(chunk)}, {FEATURES}]\n"
                "Name a file whose module ends with Inception's last pooling layer."
            )
        outputs.append(output.numpy())
        on_chunk(len(chunk))
    return np.concatenate(outputs)
