"""JAX's primitives as ONNX nodes: `PRIMITIVES` has one short function for each.

A value is an array if it depends on constants alone, or else the name of the tensor that a node
makes. Sizes are integers, or multiples of JAX's symbolic batch size. float16 and bfloat16 become
float32, for want of CPU kernels; constants keep the values that they were rounded to.
"""

import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

Value = Any  # str | np.ndarray | jax.Array
INT64_MIN = np.iinfo(np.int64).min


class GraphBuilder:
    """The nodes and weights of an ONNX graph whose first input is `latent`, `[batch, latent_dim]`.

    Args:
        onnx: the package.
        batch: JAX's symbolic batch size.
        variables: arrays by the names that the graph gives them where it holds them unchanged.
    """

    def __init__(self, onnx: Any, batch: Any, variables: dict[str, Any]):
        self.onnx, self.batch = onnx, batch
        self.nodes: list[Any] = []
        self.weights: dict[str, Any] = {}
        self._made_by: dict[str, tuple[str, tuple[Value, ...]]] = {}
        self._weight_names = {_content(a): name for name, a in reversed(variables.items())}

    def add(self, operator: str, *inputs: Value, **attributes: Any) -> str:
        """Add a node; the result is the name of its output."""
        output = f"{operator}_{len(self.nodes)}"
        names = [self._name(value) for value in inputs]
        self.nodes.append(self.onnx.helper.make_node(operator, names, [output], **attributes))
        self._made_by[output] = operator, inputs
        return output

    def _name(self, value: Value) -> str:
        """The name of a value; equal arrays become one weight."""
        if isinstance(value, str):
            return value
        content = _content(value)
        name = self._weight_names.setdefault(content, f"constant_{len(self._weight_names)}")
        if name not in self.weights:
            self.weights[name] = self.onnx.numpy_helper.from_array(_as_numpy(value), name)
        return name

    def used(self) -> tuple[list[Any], list[Any]]:
        """The nodes, in order, and weights that the last node needs."""
        needed, nodes = {*self.nodes[-1].output}, []
        for node in reversed(self.nodes):
            if needed & {*node.output}:
                nodes.append(node)
                needed |= {*node.input}
        return nodes[::-1], [array for name, array in self.weights.items() if name in needed]

    def origin(self, value: Value) -> tuple[str, tuple[Value, ...]]:
        """The operator and the inputs of the node that made a value; ("", ()) if none did."""
        return ("", ()) if _is_array(value) else self._made_by.get(value, ("", ()))

    def cast(self, x: Value, dtype: Any) -> str:
        return self.add("Cast", x, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def sizes(self, sizes: Sequence[Any]) -> Value:
        """Sizes as an int64 vector: an array, unless they depend on the batch."""
        if all(map(_is_number, sizes)):
            return _ints(sizes)
        parts = [_ints([n]) if _is_number(n) else self._batches(n) for n in sizes]
        return self.add("Concat", *parts, axis=0)

    def _batches(self, size: Any) -> str:
        factor = size // self.batch
        if not isinstance(factor, int) or factor * self.batch != size:
            raise NotImplementedError(f"the size {size}, not a multiple of the batch,")
        batch = self.add("Shape", "latent", start=0, end=1)
        return batch if factor == 1 else self.add("Mul", batch, _ints([factor]))

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        if list(order) == list(range(len(order))):
            return x
        return self.add("Transpose", x, perm=order) if isinstance(x, str) else x.transpose(order)

    def unsqueeze(self, x: Value, axes: Sequence[int]) -> Value:
        if not axes:
            return x
        return np.expand_dims(x, axes) if _is_array(x) else self.add("Unsqueeze", x, _ints(axes))

    def squeeze(self, x: Value, axes: Sequence[int]) -> Value:
        if not axes:
            return x
        if _is_array(x):
            return np.squeeze(x, tuple(axes))
        operator, inputs = self.origin(x)
        if operator == "Unsqueeze" and list(inputs[1]) == list(axes):
            return inputs[0]
        return self.add("Squeeze", x, _ints(axes))

    def slice(self, x: Value, axes: Sequence[int], starts: Value, ends: Value, steps: Any) -> Value:
        return self.add("Slice", x, starts, ends, _ints(axes), _ints(steps)) if axes else x

    def broadcast(
        self, x: Value, old: Sequence[Any], new: Sequence[Any], kept: Sequence[int]
    ) -> Value:
        """`jax.lax.broadcast_in_dim`: axis i of the old shape becomes axis `kept[i]` of the new."""
        added = [axis for axis in range(len(new)) if axis not in kept]
        sources = dict(zip(kept, old, strict=True))
        factors = [1 if sources.get(axis, 1) == n else n for axis, n in enumerate(new)]
        x = self.unsqueeze(x, added)
        return x if factors == [1] * len(new) else self.add("Expand", x, self.sizes(factors))


def _is_array(value: Value) -> bool:
    return not isinstance(value, str)


def _is_number(size: Any) -> bool:
    return isinstance(size, int | np.integer)


def _without_halves(dtype: Any) -> Any:
    return np.dtype(np.float32 if dtype in (jnp.bfloat16, jnp.float16) else dtype)


def _as_numpy(value: Value) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(_without_halves(array.dtype))


def _content(value: Value) -> tuple[Any, ...]:
    array = _as_numpy(value)
    return array.dtype, array.shape, array.tobytes()


def _ints(values: Any) -> np.ndarray:
    return np.array(values, np.int64)


def _aval(eqn: JaxprEqn, i: int = 0) -> Any:
    return eqn.invars[i].aval


def _shape(eqn: JaxprEqn, i: int = 0) -> Any:
    return _aval(eqn, i).shape


# Each function below adds the nodes of one primitive, and returns its output or a list of them.


def _same(operator: str) -> Callable[..., Value]:
    return lambda g, eqn, *inputs: g.add(operator, *inputs)


def _identity(g: GraphBuilder, eqn: JaxprEqn, *inputs: Value) -> list[Value]:
    return list(inputs)


def _max(g: GraphBuilder, eqn: JaxprEqn, x: Value, y: Value) -> str:
    if _is_array(y) and y.dtype == np.float32 and y.ndim == 0 and y == 0:
        return g.add("Relu", x)  # which runtimes fuse with what precedes it
    return g.add("Max", x, y)


def _constant_like(eqn: JaxprEqn, value: float) -> np.ndarray:
    return np.array(value, _aval(eqn).dtype)


def _convert_element_type(g: GraphBuilder, eqn: JaxprEqn, x: Value) -> Value:
    new = _without_halves(eqn.params["new_dtype"])
    return x if new == _without_halves(_aval(eqn).dtype) else g.cast(x, new)


def _integer_pow(g: GraphBuilder, eqn: JaxprEqn, x: Value) -> str:
    return g.add("Pow", x, _constant_like(eqn, eqn.params["y"]))


def _round(g: GraphBuilder, eqn: JaxprEqn, x: Value) -> str:
    if eqn.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise NotImplementedError("round away from zero")
    return g.add("Round", x)


def _logical(operator: str) -> Callable[..., str]:
    def emit(g: GraphBuilder, eqn: JaxprEqn, *inputs: Value) -> str:
        if _aval(eqn).dtype != bool:
            raise NotImplementedError(f"{eqn.primitive} of integers")
        return g.add(operator, *inputs)

    return emit


def _select_n(g: GraphBuilder, eqn: JaxprEqn, which: Value, *cases: Value) -> str:
    if _aval(eqn).dtype != bool or len(cases) > 2:
        raise NotImplementedError("select_n of more than two cases")
    otherwise, chosen = cases
    if (slope := _leaky_slope(g, which, otherwise, chosen)) is not None:
        return g.add("LeakyRelu", chosen, alpha=slope)
    if _aval(eqn, 1).dtype == bool:  # for which onnxruntime has no Where
        parts = g.add("And", which, chosen), g.add("And", g.add("Not", which), otherwise)
        return g.add("Or", *parts)
    return g.add("Where", which, chosen, otherwise)


def _leaky_slope(g: GraphBuilder, which: Value, scaled: Value, x: Value) -> float | None:
    """The slope, if a selection is `where(x >= 0, x, slope * x)`."""
    (compare, compared), (product, factors) = g.origin(which), g.origin(scaled)
    if compare != "GreaterOrEqual" or product != "Mul" or compared[0] is not x:
        return None
    slopes = [factor for factor in factors if factor is not x]
    numbers = [n for n in (compared[1], *slopes) if _is_array(n) and np.ndim(n) == 0]
    return float(numbers[1]) if len(slopes) == 1 and len(numbers) == 2 and not numbers[0] else None


def _broadcast_in_dim(g: GraphBuilder, eqn: JaxprEqn, x: Value) -> Value:
    return g.broadcast(x, _shape(eqn), eqn.params["shape"], eqn.params["broadcast_dimensions"])


def _iota(g: GraphBuilder, eqn: JaxprEqn) -> Value:
    shape, axis = eqn.params["shape"], eqn.params["dimension"]
    length = g.squeeze(g.sizes([shape[axis]]), [0])
    numbers = g.add("Range", _ints(0), length, _ints(1))
    numbers = g.cast(numbers, _without_halves(eqn.params["dtype"]))
    return g.broadcast(numbers, [shape[axis]], shape, [axis])


def _dim_as_value(g: GraphBuilder, eqn: JaxprEqn) -> Value:
    return g.cast(g.squeeze(g.sizes([eqn.params["dim"]]), [0]), np.int32)


def _reshape(g: GraphBuilder, eqn: JaxprEqn, x: Value) -> str:
    sizes = [n if _is_number(n) else -1 for n in eqn.params["new_sizes"]]
    return g.add(
        "Reshape", x, _ints(sizes) if sizes.count(-1) < 2 else g.sizes(eqn.params["new_sizes"])
    )


def _slice(g: GraphBuilder, eqn: JaxprEqn, x: Value) -> Value:
    steps = eqn.params["strides"] or [1] * len(_shape(eqn))
    bounds = zip(eqn.params["start_indices"], eqn.params["limit_indices"], steps, strict=True)
    cuts = [(axis, *cut) for axis, cut in enumerate(bounds) if cut != (0, _shape(eqn)[axis], 1)]
    if not cuts:
        return x
    axes, starts, ends, steps = zip(*cuts, strict=True)
    return g.slice(x, axes, g.sizes(starts), g.sizes(ends), steps)


def _split(g: GraphBuilder, eqn: JaxprEqn, x: Value) -> list[Value]:
    ends = np.cumsum(eqn.params["sizes"])
    pieces = zip(ends - eqn.params["sizes"], ends, strict=True)
    return [g.slice(x, [eqn.params["axis"]], _ints([i]), _ints([j]), [1]) for i, j in pieces]


def _stack(g: GraphBuilder, eqn: JaxprEqn, *inputs: Value) -> str:
    axis = eqn.params["axis"]
    return g.add("Concat", *(g.unsqueeze(x, [axis]) for x in inputs), axis=axis)


def _unstack(g: GraphBuilder, eqn: JaxprEqn, x: Value) -> list[Value]:
    axis = eqn.params["axis"]
    return [g.add("Gather", x, _ints(i), axis=axis) for i in range(len(eqn.outvars))]


def _reverse(g: GraphBuilder, x: Value, axes: Sequence[int]) -> Value:
    if _is_array(x):
        return np.flip(x, tuple(axes))
    n = len(axes)
    return g.slice(x, axes, _ints([-1] * n), _ints([INT64_MIN] * n), [-1] * n)


def _window(
    g: GraphBuilder, x: Value, shape: Any, axes: Sequence[int], starts: Value, sizes: Any
) -> Value:
    """`sizes` elements along `axes` from `starts`, which JAX clamps so that all exist."""
    room = g.sizes([shape[axis] for axis in axes])
    if _is_array(starts) and _is_array(room):
        starts = np.clip(starts, 0, room - _ints(sizes)).astype(np.int64)
        return g.slice(x, axes, starts, starts + _ints(sizes), [1] * len(axes))
    starts = g.add("Max", g.cast(starts, np.int64), _ints(0))
    starts = g.add("Min", starts, g.add("Sub", room, _ints(sizes)))
    return g.slice(x, axes, starts, g.add("Add", starts, _ints(sizes)), [1] * len(axes))


def _dynamic_slice(g: GraphBuilder, eqn: JaxprEqn, x: Value, *starts: Value) -> Value:
    shape, sizes = _shape(eqn), eqn.params["slice_sizes"]
    axes = [axis for axis, n in enumerate(sizes) if n != shape[axis]]
    if not axes:
        return x
    scalars = [starts[axis] for axis in axes]
    if all(map(_is_array, scalars)):
        start: Value = np.stack(scalars)
    else:
        start = g.add("Concat", *(g.unsqueeze(scalar, [0]) for scalar in scalars), axis=0)
    return _window(g, x, shape, axes, start, [sizes[axis] for axis in axes])


def _gather(g: GraphBuilder, eqn: JaxprEqn, x: Value, indices: Value) -> Value:
    # An index out of range gives NaN in JAX's mode FILL_OR_DROP, and an error in onnxruntime.
    dims, sizes, shape = eqn.params["dimension_numbers"], eqn.params["slice_sizes"], _shape(eqn)
    indexed, index_rank = list(dims.start_index_map), len(_shape(eqn, 1)) - 1
    if not index_rank:  # one window, as in x[:, 1:]
        x = _window(g, x, shape, indexed, indices, [sizes[axis] for axis in indexed])
        return g.squeeze(x, dims.collapsed_slice_dims)
    batching = list(dims.operand_batching_dims)
    others = [a for a in range(len(shape)) if a not in indexed and a not in batching]
    if {*indexed} != {*dims.collapsed_slice_dims} or any(sizes[a] != shape[a] for a in others):
        raise NotImplementedError("gather of windows")
    if dims.start_indices_batching_dims != tuple(range(len(batching))):
        raise NotImplementedError("gather with these batch axes")
    if eqn.params["mode"] == jax.lax.GatherScatterMode.CLIP:
        ends = np.array([shape[a] - 1 for a in indexed], np.int32)
        indices = g.add("Min", g.add("Max", indices, ends * 0), ends)
    if len(indexed) == 1 and not batching:
        (axis,) = indexed
        result = g.add("Gather", x, g.squeeze(indices, [index_rank]), axis=axis)
        windows = [a if a < axis else a + index_rank - 1 for a in others]
    else:
        x = g.transpose(x, [*batching, *indexed, *others])
        result = g.add("GatherND", x, g.cast(indices, np.int64), batch_dims=len(batching))
        windows = [index_rank + i for i in range(len(others))]
    return _place(g, eqn, result, windows)


def _place(g: GraphBuilder, eqn: JaxprEqn, x: Value, axes: list[int]) -> Value:
    """Move the axes of a gather's windows to their places among those of the indices."""
    places = eqn.params["dimension_numbers"].offset_dims
    rank = len(_shape(eqn, 1)) - 1 + len(places)
    window_axes, index_axes = iter(axes), (axis for axis in range(rank) if axis not in axes)
    return g.transpose(x, [next(window_axes if i in places else index_axes) for i in range(rank)])


def _pad(g: GraphBuilder, eqn: JaxprEqn, x: Value, value: Value) -> str:
    low, high, interior = zip(*eqn.params["padding_config"], strict=True)
    if any(interior):
        raise NotImplementedError("pad between elements")
    return g.add("Pad", x, _ints(low + high), value)


def _reduce(operator: str) -> Callable[..., str]:
    return lambda g, eqn, x: g.add(operator, x, axes=eqn.params["axes"], keepdims=0)


def _dot_general(g: GraphBuilder, eqn: JaxprEqn, x: Value, y: Value) -> str:
    (x_sums, y_sums), (x_batch, y_batch) = eqn.params["dimension_numbers"]
    x_rank, y_rank = len(_shape(eqn, 0)), len(_shape(eqn, 1))
    if (list(x_sums), list(y_sums), y_rank) == ([x_rank - 1], [0], 2):
        return g.add("MatMul", x, y)
    letters = iter(string.ascii_letters)
    x_names, y_names = ([next(letters) for _ in range(rank)] for rank in (x_rank, y_rank))
    for i, j in zip((*x_sums, *x_batch), (*y_sums, *y_batch), strict=True):
        y_names[j] = x_names[i]
    batch = [x_names[i] for i in x_batch]
    x_free = [x_names[i] for i in range(x_rank) if i not in (*x_sums, *x_batch)]
    y_free = [y_names[j] for j in range(y_rank) if j not in (*y_sums, *y_batch)]
    x_side, y_side, out = map("".join, (x_names, y_names, batch + x_free + y_free))
    return g.add("Einsum", x, y, equation=f"{x_side},{y_side}->{out}")


def _conv(g: GraphBuilder, eqn: JaxprEqn, x: Value, kernel: Value) -> Value:
    p = eqn.params
    specs = p["dimension_numbers"]
    low, high = zip(*p["padding"], strict=True)
    x, kernel = g.transpose(x, specs.lhs_spec), g.transpose(kernel, specs.rhs_spec)
    if p["batch_group_count"] != 1 or min(*low, *high) < 0:
        raise NotImplementedError("conv_general_dilated with batch groups or negative padding")
    if set(p["lhs_dilation"]) == {1}:
        x = g.add(
            "Conv", x, kernel, strides=p["window_strides"], pads=low + high,
            dilations=p["rhs_dilation"], group=p["feature_group_count"],
        )  # fmt: skip
    else:
        x = _conv_transpose(g, p, x, kernel, [_shape(eqn, 1)[axis] for axis in specs.rhs_spec[2:]])
    return g.transpose(x, np.argsort(specs.out_spec).tolist())


def _conv_transpose(
    g: GraphBuilder, p: dict[str, Any], x: Value, kernel: Value, kernel_sizes: list[int]
) -> str:
    """A convolution of an image with zeros between its pixels; the kernel is `[O, I, ...]`."""
    axes = [2 + i for i in range(len(kernel_sizes))]
    reach = [
        (n - 1) * dilation for n, dilation in zip(kernel_sizes, p["rhs_dilation"], strict=True)
    ]
    low = [n - pad for n, (pad, _) in zip(reach, p["padding"], strict=True)]
    high = [n - pad for n, (_, pad) in zip(reach, p["padding"], strict=True)]
    too_wide = [-n >= step for n, step in zip(high, p["lhs_dilation"], strict=True)]
    if (
        p["feature_group_count"] > 1
        or max(p["window_strides"]) > 1
        or min(low) < 0
        or any(too_wide)
    ):
        raise NotImplementedError(
            "conv_general_dilated with lhs_dilation and groups, strides or wide padding"
        )
    return g.add(
        "ConvTranspose",
        x,
        g.transpose(_reverse(g, kernel, axes), [1, 0, *axes]),
        strides=p["lhs_dilation"],
        dilations=p["rhs_dilation"],
        pads=[*low, *(max(n, 0) for n in high)],
        output_padding=[max(-n, 0) for n in high],
    )


PRIMITIVES: dict[str, Callable[..., Value | list[Value]]] = {
    "abs": _same("Abs"),
    "add": _same("Add"),
    "and": _logical("And"),
    "broadcast_in_dim": _broadcast_in_dim,
    "ceil": _same("Ceil"),
    "clamp": lambda g, eqn, low, x, high: g.add("Min", g.add("Max", x, low), high),
    "concatenate": lambda g, eqn, *xs: g.add("Concat", *xs, axis=eqn.params["dimension"]),
    "conv_general_dilated": _conv,
    "convert_element_type": _convert_element_type,
    "copy": _identity,
    "cos": _same("Cos"),
    "dim_as_value": _dim_as_value,
    "div": _same("Div"),
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "eq": _same("Equal"),
    "erf": _same("Erf"),
    "erfc": lambda g, eqn, x: g.add("Sub", _constant_like(eqn, 1), g.add("Erf", x)),
    "exp": _same("Exp"),
    "exp2": lambda g, eqn, x: g.add("Pow", _constant_like(eqn, 2), x),
    "expm1": lambda g, eqn, x: g.add("Sub", g.add("Exp", x), _constant_like(eqn, 1)),
    "floor": _same("Floor"),
    "gather": _gather,
    "ge": _same("GreaterOrEqual"),
    "gt": _same("Greater"),
    "integer_pow": _integer_pow,
    "iota": _iota,
    "le": _same("LessOrEqual"),
    "log": _same("Log"),
    "log1p": lambda g, eqn, x: g.add("Log", g.add("Add", x, _constant_like(eqn, 1))),
    "logistic": _same("Sigmoid"),
    "lt": _same("Less"),
    "max": _max,
    "min": _same("Min"),
    "mul": _same("Mul"),
    "ne": lambda g, eqn, x, y: g.add("Not", g.add("Equal", x, y)),
    "neg": _same("Neg"),
    "not": _logical("Not"),
    "optimization_barrier": _identity,
    "or": _logical("Or"),
    "pad": _pad,
    "pow": _same("Pow"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_sum": lambda g, eqn, x: g.add("ReduceSum", x, _ints(eqn.params["axes"]), keepdims=0),
    "rem": lambda g, eqn, x, y: g.add("Mod", x, y, fmod=1),
    "reshape": _reshape,
    "rev": lambda g, eqn, x: _reverse(g, x, eqn.params["dimensions"]),
    "round": _round,
    "rsqrt": lambda g, eqn, x: g.add("Reciprocal", g.add("Sqrt", x)),
    "select_n": _select_n,
    "sign": _same("Sign"),
    "sin": _same("Sin"),
    "slice": _slice,
    "split": _split,
    "sqrt": _same("Sqrt"),
    "square": lambda g, eqn, x: g.add("Mul", x, x),
    "squeeze": lambda g, eqn, x: g.squeeze(x, eqn.params["dimensions"]),
    "stack": _stack,
    "stop_gradient": _identity,
    "sub": _same("Sub"),
    "tanh": _same("Tanh"),
    "tile": lambda g, eqn, x: g.add("Tile", x, g.sizes(eqn.params["reps"])),
    "transpose": lambda g, eqn, x: g.transpose(x, eqn.params["permutation"]),
    "unstack": _unstack,
    "xor": _logical("Xor"),
}
