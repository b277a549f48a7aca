"""A generator as an ONNX graph, traced by JAX, for onnxruntime and other runtimes.

onnx_primitives.py has the nodes of each primitive. Needs the extra `onnx`, imported where it is
used.
"""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.extend.core import JaxprEqn, Literal

from cgan_jax.checks import errors_as, with_article
from cgan_jax.errors import ConfigError, DataError
from cgan_jax.files import atomic_write
from cgan_jax.interop.exported import ExportedGenerator, images_function, symbolic_inputs
from cgan_jax.interop.onnx_primitives import PRIMITIVES, GraphBuilder, Value
from cgan_jax.sampling.generator import TrainedGenerator
from cgan_jax.sampling.generator_file import check_metadata, metadata
from cgan_jax.sampling.safetensors_bytes import KEY
from cgan_jax.training.gan import check_generator, image_shape

OPSET, IR_VERSION = 17, 8  # of 2022: old runtimes read them
# Primitives that call a function: its equations take their place.
CALLS = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2")


def save_onnx(path: str | os.PathLike[str], generator: TrainedGenerator) -> None:
    """Write a generator as an ONNX graph for batches of any size.

    Inputs are `latent`, float32 `[batch, latent_dim]`, and `labels`, int32 `[batch]`; the output is
    `images`, float32 `[batch, H, W, C]` in [-1, 1]. The property `cgan_jax` of the model holds
    `metadata`'s table as JSON.

    Args:
        path: the file; an older one of that name is replaced.
        generator: any generator whose module takes batches of any size and computes with the
            primitives in `onnx_primitives.PRIMITIVES`. What it computes in float16 or bfloat16 is
            computed in float32 by the graph.

    Raises:
        ConfigError: the module lacks a field, fixes the batch size, or uses another primitive.
        DataError: the package onnx is not installed.
        RunError: the file cannot be written.
    """
    onnx, _ = packages()
    check_generator(generator.module)
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
    then = "expected a generator as an ONNX graph\nExport it again."
    with errors_as(DataError, f"{path} cannot be read", then):
        data = Path(path).read_bytes()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        table = json.loads(session.get_modelmeta().custom_metadata_map.get(KEY, "null"))

    def images(latent: np.ndarray, labels: np.ndarray) -> Any:
        return session.run(["images"], {"latent": latent, "labels": labels})[0]

    return ExportedGenerator(images, check_metadata(table, path))


def packages() -> tuple[Any, Any]:
    """The packages onnx and onnxruntime.

    Raises:
        DataError: one is not installed.
    """
    what = "ONNX files need a package that is not installed"
    then = "expected onnx and onnxruntime\nInstall them with `pip install onnx onnxruntime`."
    with errors_as(DataError, what, then, ImportError):
        import onnx
        import onnxruntime
    return onnx, onnxruntime


def _model(onnx: Any, generator: TrainedGenerator) -> Any:
    module, helper, tensor = generator.module, onnx.helper, onnx.TensorProto
    nodes, weights = _nodes_and_weights(onnx, generator)
    graph = helper.make_graph(
        nodes,
        "generator",
        inputs=[
            helper.make_tensor_value_info("latent", tensor.FLOAT, ["batch", module.latent_dim]),
            helper.make_tensor_value_info("labels", tensor.INT32, ["batch"]),
        ],
        outputs=[
            helper.make_tensor_value_info("images", tensor.FLOAT, ["batch", *image_shape(module)])
        ],
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


def _nodes_and_weights(onnx: Any, generator: TrainedGenerator) -> tuple[list[Any], list[Any]]:
    """The nodes from `latent` and `labels` to `images`, and the weights that they use."""
    inputs = symbolic_inputs(generator)
    batch = inputs[0].shape[0]
    graph = GraphBuilder(onnx, batch, flatten_dict(generator.variables, sep="."))
    what = f"{with_article(type(generator.module).__name__)} cannot be written as ONNX"
    then = (
        "expected a module for batches of any size\n"
        "Use x.shape[0] or -1 for the batch size, not len(x) or int(x.shape[0])."
    )
    # By default, GPUs and TPUs round the factors of products to fewer bits than float32 has.
    with jax.default_matmul_precision("highest"):
        with errors_as(ConfigError, what, then):
            program = jax.make_jaxpr(images_function(generator))(*inputs)
        try:
            (images,) = _translate(graph, program.jaxpr, program.consts, ["latent", "labels"])
        except NotImplementedError as error:
            raise ConfigError(
                f"{what}: it uses {error} of JAX\n"
                "expected primitives that cgan_jax.interop.onnx_primitives lists\n"
                "Export it as StableHLO, which takes any module."
            ) from error
    graph.nodes.append(onnx.helper.make_node("Identity", [images], ["images"]))
    return graph.used()


def _translate(graph: GraphBuilder, jaxpr: Any, consts: Any, inputs: list[Value]) -> list[Value]:
    """Add the nodes of a jaxpr; what depends on constants alone is computed here and now.

    Raises:
        NotImplementedError: a primitive has no ONNX form here; the message names it.
    """
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, inputs, strict=True)

    def read(atom: Any) -> Value:
        is_literal = isinstance(atom, Literal)
        return np.asarray(atom.val, atom.aval.dtype) if is_literal else values[atom]

    for eqn in jaxpr.eqns:
        inputs, name = [read(atom) for atom in eqn.invars], eqn.primitive.name
        if name in CALLS:
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            outputs = _translate(
                graph, getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs
            )
        elif _is_constant(eqn, inputs):
            result = eqn.primitive.bind(*inputs, **eqn.params)
            outputs = result if eqn.primitive.multiple_results else [result]
        elif name in PRIMITIVES:
            result = PRIMITIVES[name](graph, eqn, *inputs)
            outputs = result if isinstance(result, list) else [result]
        else:
            raise NotImplementedError(f"the primitive {name}")
        values |= zip(eqn.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _is_constant(eqn: JaxprEqn, inputs: list[Value]) -> bool:
    if eqn.primitive.name == "dim_as_value":
        return False
    outputs: Any = eqn.outvars
    sizes = [n for out in outputs for n in out.aval.shape]
    return all(isinstance(n, int) for n in sizes) and not any(isinstance(x, str) for x in inputs)
