"""What TFDS's builders of image sets need of TensorFlow, without TensorFlow: for preparing only.

They open files through `tf.io.gfile`, and TFDS encodes arrays as PNG or JPEG with it. Whatever else
a builder wants raises an AttributeError that names it.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np

from cgan_jax.data.pictures import picture

_GFILE = SimpleNamespace(
    GFile=open, exists=os.path.exists, isdir=os.path.isdir, listdir=os.listdir, walk=os.walk
)
_STAND_IN = SimpleNamespace(io=SimpleNamespace(gfile=_GFILE), compat=SimpleNamespace(as_text=str))


@contextlib.contextmanager
def without_tensorflow(builder: type) -> Iterator[None]:
    """Within this a builder of TFDS and its extractor have the stand-in, if TensorFlow is not here.

    Args:
        builder: the builder's class.
    """
    if find_spec("tensorflow"):
        yield
        return
    from unittest import mock

    from tensorflow_datasets.core.download import extractor
    from tensorflow_datasets.core.features import image_feature

    modules = {sys.modules[each.__module__] for each in builder.__mro__} | {extractor}
    with contextlib.ExitStack() as stack:
        for module in modules:
            if module.__name__.startswith("tensorflow_datasets") and hasattr(module, "tf"):
                stack.enter_context(mock.patch.object(module, "tf", _STAND_IN))
        stack.enter_context(
            mock.patch.object(image_feature._ImageEncoder, "_encode_image", _encode_image)
        )
        yield


def _encode_image(encoder: Any, array: np.ndarray) -> bytes:
    if array.dtype != np.uint8 or array.ndim != 3:
        raise ValueError(f"an image is {array.dtype} {list(array.shape)}, expected uint8 [H, W, C]")
    stream = BytesIO()
    picture(array).save(stream, encoder.encoding_format)
    return stream.getvalue()
