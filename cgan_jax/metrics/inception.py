"""The FID on Inception's features (Heusel et al. 2017), for users who have its weights.

Nothing is downloaded. The file is a TorchScript module, as that of NVIDIA's StyleGAN code
(`inception-2015-12-05.pt`), and PyTorch (extra `torch`) runs it.
"""

import warnings
from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np

from cgan_jax.checks import one_line
from cgan_jax.errors import DataError

CHUNK = 50  # images of 299 x 299 at a time
SIZE, FEATURES = 299, 2048

Features = Callable[[np.ndarray, Callable[[int], None]], np.ndarray]


def load_inception(path: str | PathLike[str]) -> Features:
    """The features of a TorchScript Inception, as a function of images.

    The protocol: uint8 images of one or three channels, a grey one three times; enlarged to
    299 x 299 by bilinear interpolation (`align_corners=False`); floats in 0..255; the module gives
    its last pooling layer, `[N, 2048]`. If its `forward` has an argument `return_features`, that is
    set; the module itself then scales the pixels.

    Args:
        path: the file. Its program is run: take it from where you trust.

    Returns:
        a function of images, uint8 `[N, H, W, C]`, and of a callable that is told of the number of
        images done; it returns features, float32 `[N, 2048]`.

    Raises:
        DataError: no such file, no TorchScript, no PyTorch, or another kind of module; so does the
            function for images that the module cannot take.
    """
    try:
        import torch
    except ImportError as error:
        raise DataError(
            "Inception's features need PyTorch, which is not installed\n"
            "expected the extra `torch`\nInstall it with `pip install -e '.[torch]'`."
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the file is what it is
            module = torch.jit.load(str(path), map_location="cpu").eval()
        named = [argument.name for argument in module.forward.schema.arguments]
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read as Inception: {one_line(error, 100)}\n"
            "expected a TorchScript module that gives [N, 2048]\n"
            "Name the file inception-2015-12-05.pt of NVIDIA's StyleGAN code, or one like it."
        ) from error
    options: dict[str, Any] = {"return_features": True} if "return_features" in named else {}

    def features(images: np.ndarray, on_chunk: Callable[[int], None]) -> np.ndarray:
        found = []
        for start in range(0, len(images), CHUNK):
            chunk = torch.from_numpy(np.array(images[start : start + CHUNK], np.float32))
            planes = chunk.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
            with torch.no_grad():
                enlarged = torch.nn.functional.interpolate(
                    planes, size=(SIZE, SIZE), mode="bilinear", align_corners=False
                )
                given = module(enlarged, **options)
            if not isinstance(given, torch.Tensor) or given.shape != (len(chunk), FEATURES):
                shape = list(getattr(given, "shape", ()))
                raise DataError(
                    f"the module in {path} gives {type(given).__name__} {shape}\n"
                    f"expected features [{len(chunk)}, {FEATURES}]\n"
                    "Name a file whose module ends with Inception's last pooling layer."
                )
            found.append(given.numpy())
            on_chunk(len(chunk))
        return np.concatenate(found)

    return features
