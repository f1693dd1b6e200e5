"""What ICCV21-MFR and MFR-Ongoing take: the submission's rules, checked before the upload.

Source: deepinsight/insightface, `challenges/iccv21-mfr` and `challenges/mfr` (README files, and the
checker `onnx_helper.py`). The servers run onnxruntime 1.6 and 1.8; the first reads opset 13 and
IR 7 at most.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from facerec.values import ConfigError

Floats: TypeAlias = NDArray[np.float32]

IMAGE_SIZE = 112
NEWEST_OPSET, NEWEST_IR = 13, 7
LARGEST_FILE = 1024  # MiB
LONGEST, LONGEST_MS1M = 1024, 512  # numbers per embedding, in any track and in the ms1m track
FEWEST_NODES = 8
BATCH = 32

_FIRST = 8  # nodes that the checker looks at to tell whether the graph normalises by itself
_SUBTRACT = ("Sub", "_minus")
_SCALE = ("Mul", "_mul", "Div")
_WIDE = {TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.DOUBLE}


def normalises_itself(model: Any) -> bool:
    """Whether the checker feeds this graph raw pixels, 0 to 255, because of its first nodes' names.

    Args:
        model: An `onnx.ModelProto`.
    """
    names = [node.name for node in model.graph.node[:_FIRST]]
    subtracts = any(name.startswith(_SUBTRACT) for name in names)
    return subtracts and any(name.startswith(_SCALE) for name in names)


def check(file: Path, run: Callable[[Floats], Floats]) -> tuple[str, ...]:
    """Refuse what the servers refuse.

    Args:
        file: The ONNX file. It takes normalised pixels, (x - 127.5) / 127.5.
        run: Gives the embeddings (b, D) of normalised images (b, 3, 112, 112) through this file.

    Returns:
        Sentences about what only some tracks take.

    Raises:
        ConfigError: A rule that the file breaks, with the value and the limit.
    """
    size = file.stat().st_size / 2**20
    if size > LARGEST_FILE:
        raise _broken(f"the file has {size:.0f} MB", f"at most {LARGEST_FILE} are taken")
    model = onnx.load(str(file), load_external_data=False)
    _check_versions(model)
    length = _check_ends(model.graph)
    _check_nodes(model.graph)
    _check_weights(model.graph)
    _check_flip(model.graph, run)
    images = np.random.default_rng(0).uniform(-1, 1, (BATCH, 3, IMAGE_SIZE, IMAGE_SIZE))
    found = run(images.astype(np.float32))
    if found.shape != (BATCH, length) or not np.isfinite(found).all():
        raise _broken(
            f"a batch of {BATCH} gives {found.shape}, finite: {bool(np.isfinite(found).all())}",
            f"({BATCH}, {length}), all finite, is wanted",
        )
    if length > LONGEST_MS1M:
        return (
            f"embeddings of {length} numbers are for the unconstrained and Glint360K tracks; "
            f"the ms1m track takes {LONGEST_MS1M} at most",
        )
    return ()


def pack(file: Path, zipped: Path, name: str) -> None:
    """Write the zip that is uploaded: one ONNX file, in no folder.

    Args:
        file: The ONNX file.
        zipped: Where the zip goes.
        name: What the ONNX file is called inside.
    """
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_STORED) as archive:  # weights do not compress
        archive.write(file, name)


def _broken(found: str, wanted: str) -> ConfigError:
    return ConfigError(f"--target mfr: {found}; {wanted}")


def _check_versions(model: Any) -> None:
    opsets = {item.domain or "ai.onnx": item.version for item in model.opset_import}
    if set(opsets) != {"ai.onnx"} or opsets["ai.onnx"] > NEWEST_OPSET:
        found = ", ".join(f"{domain} {version}" for domain, version in opsets.items())
        raise _broken(f"operators of {found}", f"ai.onnx {NEWEST_OPSET} is the newest taken")
    if model.ir_version > NEWEST_IR:
        raise _broken(f"IR version {model.ir_version}", f"{NEWEST_IR} is the newest taken")


def _check_ends(graph: Any) -> int:
    """One input, one output, of the wanted shapes; gives the length of an embedding."""
    own = {weight.name for weight in graph.initializer}
    inputs = [item for item in graph.input if item.name not in own]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise _broken(f"{len(inputs)} inputs and {len(graph.output)} outputs", "one each is wanted")
    for item, wanted in ((inputs[0], ("batch", 3, IMAGE_SIZE, IMAGE_SIZE)), (graph.output[0], ())):
        kind = item.type.tensor_type
        shape = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
        fits = list(wanted[1:]) == shape[1:] if wanted else len(shape) == 2
        if kind.elem_type != TensorProto.FLOAT or not fits or not isinstance(shape[0], str):
            text = f"({', '.join(map(str, wanted or ('batch', 'D')))})"
            raise _broken(
                f"{item.name} is {shape} of type {TensorProto.DataType.Name(kind.elem_type)}",
                f"{text} of FLOAT with a symbolic batch is wanted",
            )
    length = int(graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    if not 0 < length <= LONGEST:
        raise _broken(f"embeddings of {length} numbers", f"1 to {LONGEST} are taken")
    return length


def _check_nodes(graph: Any) -> None:
    if len(graph.node) < FEWEST_NODES:
        raise _broken(f"{len(graph.node)} nodes", f"at least {FEWEST_NODES} are wanted")
    for node in graph.node[:_FIRST]:
        if node.name.startswith(_SUBTRACT + _SCALE):
            raise _broken(
                f"a node called {node.name} is among the first {_FIRST}",
                "the server would take it for a normalisation and feed raw pixels",
            )


def _check_weights(graph: Any) -> None:
    for weight in graph.initializer:
        kind = TensorProto.DataType.Name(weight.data_type)
        if weight.data_type not in _WIDE:
            raise _broken(f"{weight.name} is of type {kind}", "4 bytes per number are the least")
        if weight.data_location == TensorProto.EXTERNAL:
            raise _broken(f"{weight.name} lies in another file", "all weights belong inside")


def _check_flip(graph: Any, run: Callable[[Floats], Floats]) -> None:
    """Refuse a flip test inside the graph: by its nodes, and by what a mirrored image gives."""
    weights = {item.name: item for item in graph.initializer}
    weights |= {
        node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"
    }
    for node in graph.node:
        steps = weights.get(node.input[4]) if len(node.input) == 5 else None
        backward = node.op_type == "Slice" and steps is not None
        if node.op_type == "ReverseSequence" or (
            backward and bool((numpy_helper.to_array(steps) < 0).any())
        ):
            raise _broken(f"{node.name} ({node.op_type}) turns an axis round", "no flip is taken")
    shape = (2, 3, IMAGE_SIZE, IMAGE_SIZE)
    images = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    plain, mirrored = run(images), run(np.ascontiguousarray(images[..., ::-1]))
    if np.abs(plain - mirrored).max() <= 1e-5 * np.abs(plain).max():
        raise _broken(
            "an image and its mirror image give the same embedding",
            "no flip inside the graph is taken",
        )
