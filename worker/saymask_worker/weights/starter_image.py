"""Rebuild OpenAI's CLIP ViT-B/16 image tower from a dynamically quantised ONNX graph.

The graph stores each weight matrix as 8-bit integers with a scale and zero point per column,
``W = (Wq - zero_point) * scale`` of shape (in, out), under anonymous names. A matrix is named
by the bias it is followed by: MatMulInteger -> Cast -> Mul -> Add(bias).
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from saymask.errors import WeightsError

OPEN_CLIP_NAME = "ViT-B-16-quickgelu"
_LAYERS = 12
_STEPS_TO_BIAS = 3
_PROJECTION = "visual_projection.weight"


def load_dequantised(path: Path) -> dict[str, Tensor]:
    """Read the ONNX file and return an open_clip ``visual`` state dict, float32.

    Raises:
        WeightsError: the graph is not that tower.
    """
    graph = onnx.load(str(path)).graph
    tensors = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    users = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)

    named = {
        name: array.astype(np.float32)
        for name, array in tensors.items()
        if name.startswith("vision_model")
    }
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            quantised = node.input[1]
            base = quantised.removesuffix("_quantized")
            zero, scale = tensors[f"{base}_zero_point"], tensors[f"{base}_scale"]
            matrix = (tensors[quantised].astype(np.float32) - zero.astype(np.float32)) * scale
            named[_name_of(node, users, tensors)] = np.ascontiguousarray(matrix.T)
    try:
        return _to_open_clip(named)
    except KeyError as error:
        raise WeightsError(
            f"{path.name} is not the CLIP image tower: {error} is missing."
        ) from error


def _name_of(
    node: onnx.NodeProto,
    users: dict[str, list[onnx.NodeProto]],
    tensors: dict[str, NDArray[np.generic]],
) -> str:
    """The name of the bias added to this product; the projection has none."""
    output = node.output[0]
    for _ in range(_STEPS_TO_BIAS):
        following = users.get(output, [])
        if not following:
            break
        step = following[0]
        if step.op_type == "Add":
            biases = [n for n in step.input if n in tensors and n.endswith(".bias")]
            return biases[0].removesuffix("bias") + "weight" if biases else _PROJECTION
        output = step.output[0]
    return _PROJECTION


def _to_open_clip(named: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    vision = "vision_model"
    state = {
        "class_embedding": named[f"{vision}.embeddings.class_embedding"],
        "positional_embedding": named[f"{vision}.embeddings.position_embedding.weight"],
        "conv1.weight": named[f"{vision}.embeddings.patch_embedding.weight"],
        "proj": named[_PROJECTION].T,
    }
    # "pre_layrnorm" is how the published graph spells it.
    norms = {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post"}
    for source, target in norms.items():
        for part in ("weight", "bias"):
            state[f"{target}.{part}"] = named[f"{vision}.{source}.{part}"]
    pairs = {
        "attn.out_proj.": "self_attn.out_proj.",
        "ln_1.": "layer_norm1.",
        "ln_2.": "layer_norm2.",
        "mlp.c_fc.": "mlp.fc1.",
        "mlp.c_proj.": "mlp.fc2.",
    }
    for index in range(_LAYERS):
        source, target = f"{vision}.encoder.layers.{index}.", f"transformer.resblocks.{index}."
        for part in ("weight", "bias"):
            stacked = [named[f"{source}self_attn.{k}_proj.{part}"] for k in "qkv"]
            state[f"{target}attn.in_proj_{part}"] = np.concatenate(stacked)
            for ours, theirs in pairs.items():
                state[f"{target}{ours}{part}"] = named[f"{source}{theirs}{part}"]
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in state.items()}
