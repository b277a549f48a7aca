"""A generator as an ONNX graph, layer by layer, for onnxruntime and other runtimes.

Needs the extra `onnx`, imported where it is used.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from cgan_jax.checks import one_line
from cgan_jax.errors import DataError
from cgan_jax.files import atomic_write
from cgan_jax.interop.exported import ExportedGenerator, library_module
from cgan_jax.sampling.generator import TrainedGenerator
from cgan_jax.sampling.generator_file import check_metadata, metadata
from cgan_jax.sampling.safetensors_bytes import KEY

OPSET, IR_VERSION = 17, 8  # of 2022: enough for these layers, and old runtimes read them


def save_onnx(path: str | os.PathLike[str], generator: TrainedGenerator) -> None:
    """Write a generator as an ONNX graph for batches of any size.

    Inputs are `latent`, float32 `[batch, latent_dim]`, and `labels`, int32 `[batch]`; the output is
    `images`, float32 `[batch, H, W, C]` in [-1, 1]. The property `cgan_jax` of the model holds
    `metadata`'s table as JSON.

    Args:
        path: the file; an older one of that name is replaced.
        generator: one whose module is a `cgan_jax.Generator`.

    Raises:
        ConfigError: its module is not exactly a `cgan_jax.Generator`.
        DataError: the package onnx is not installed.
        RunError: the file cannot be written.
    """
    onnx, _ = packages()
    model = _model(onnx, generator)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    with atomic_write(Path(path)) as file:
        file.write_bytes(data)


def load_onnx(path: str | os.PathLike[str]) -> ExportedGenerator:
    """Read what `save_onnx` wrote, and run it with onnxruntime on the CPU.

    Raises:
        DataError: the file is missing, damaged or of another kind; or onnxruntime is not installed.
    """
    _, onnxruntime = packages()
    try:
        data = Path(path).read_bytes()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        table = json.loads(session.get_modelmeta().custom_metadata_map.get(KEY, "null"))
    except Exception as error:  # onnxruntime documents no common error type
        raise DataError(
            f"{path} cannot be read: {one_line(error)}\n"
            "expected a generator as an ONNX graph\nExport it again."
        ) from error

    def images(latent: np.ndarray, labels: np.ndarray) -> Any:
        return session.run(["images"], {"latent": latent, "labels": labels})[0]

    return ExportedGenerator(images, check_metadata(table, path))


def packages() -> tuple[Any, Any]:
    """The packages onnx and onnxruntime.

    Raises:
        DataError: one is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise DataError(
            f"ONNX files need a package that is not installed: {one_line(error)}\n"
            "expected onnx and onnxruntime\nInstall them with `pip install onnx onnxruntime`."
        ) from error
    return onnx, onnxruntime


def _model(onnx: Any, generator: TrainedGenerator) -> Any:
    module = library_module(generator, "ONNX")
    params, stats = generator.variables["params"], generator.variables.get("batch_stats", {})
    helper, tensor = onnx.helper, onnx.TensorProto
    nodes, weights = [], []

    def constant(name: str, value: Any) -> str:
        weights.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; its name is also that of its output."""
        nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def linear(name: str, x: str) -> str:
        kernel = constant(f"{name}.kernel", params[name]["kernel"])
        return add("Gemm", name, x, kernel, constant(f"{name}.bias", params[name]["bias"]))

    embedding = constant("label_embedding.embedding", params["label_embedding"]["embedding"])
    label = add("Gather", "label_embedding", embedding, "labels")
    x = add("Concat", "label_and_latent", label, "latent", axis=1)
    for i in range(len(module.widths)):
        x = linear(f"hidden_{i}", x)
        if i > 0:
            name = f"batch_norm_{i}"
            norm = {**params[name], **stats[name]}
            arrays = [constant(f"{name}.{k}", norm[k]) for k in ("scale", "bias", "mean", "var")]
            x = add("BatchNormalization", name, x, *arrays, epsilon=module.bn_epsilon)
        x = add("LeakyRelu", f"leaky_relu_{i}", x, alpha=module.negative_slope)
    x = add("Tanh", "tanh", linear("output", x))
    image = (module.img_size, module.img_size, module.channels)
    add("Reshape", "images", x, constant("image_shape", np.array([-1, *image])))

    graph = helper.make_graph(
        nodes,
        "generator",
        inputs=[
            helper.make_tensor_value_info("latent", tensor.FLOAT, ["batch", module.latent_dim]),
            helper.make_tensor_value_info("labels", tensor.INT32, ["batch"]),
        ],
        outputs=[helper.make_tensor_value_info("images", tensor.FLOAT, ["batch", *image])],
        initializer=weights,
    )
    table = metadata(generator)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cgan_jax",
        producer_version=table["cgan_jax"],
    )
    helper.set_model_props(model, {KEY: json.dumps(table)})
    return model
