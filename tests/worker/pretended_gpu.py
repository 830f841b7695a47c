"""A GPU that is pretended: the worker runs as on a CUDA device, on a machine without one.

Tensors say that they are on ``cuda:0`` and keep their values on the CPU. As on a GPU, an operation
on tensors of both is an error, and so is reading one from NumPy. Neither speed nor kernels of CUDA
are tested. Run in a process of its own, because it changes PyTorch:

    python -m tests.worker.pretended_gpu PHOTO EXPRESSION
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

_DEVICE = torch.device("cuda:0")
_CPU = torch.device("cpu")
_ATEN = torch.ops.aten
_COPIES = (_ATEN.copy_.default, _ATEN._to_copy.default)
_INDEXING = (_ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN._index_put_impl_.default)
_ATTENTION = (nn.functional.scaled_dot_product_attention, torch._C._nn.scaled_dot_product_attention)

operations = 0


class OnDevice(Tensor):
    """A tensor that says it is on the device; ``held`` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        with _disable_current_modes():
            shape = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
            made: OnDevice = Tensor._make_subclass(
                cls, shape, False, dispatch_device=True, device_for_backend_keys=_DEVICE
            )
        made.held = held
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> OnDevice:
        return OnDevice(self.held.clone())

    @classmethod
    def __torch_dispatch__(cls, operation: Any, _types: Any, args: Any = (), named: Any = None):
        return _run(operation, args, named or {})


class _Dispatch(TorchDispatchMode):
    """Sees operations on tensors of the CPU too, among them those that move one to the device."""

    def __init__(self) -> None:
        super().__init__()
        # Under this key PyTorch does not ask for a driver.
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), named: Any = None):
        return _run(operation, args, named or {})


class _Functions(TorchFunctionMode):
    """What chooses a kernel, or asks for a driver, before any operation is dispatched."""

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), named: Any = None):
        named = named or {}
        if function is torch.tensor and _is_gpu(named.get("device")):
            return OnDevice(torch.tensor(*args, **{**named, "device": _CPU}))
        if function is Tensor.new_tensor and isinstance(args[0], OnDevice):
            return OnDevice(torch.tensor(*args[1:], dtype=args[0].dtype))
        if function in _ATTENTION and isinstance(args[0], OnDevice):
            _require_one_device(function, args, named)
            return OnDevice(function(*_hold(args), **_hold(named)))
        return function(*args, **named)


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _hold(values: Any) -> Any:
    """The same with the held tensors, and the CPU as device."""

    def hold(value: Any) -> Any:
        if isinstance(value, OnDevice):
            return value.held
        return _CPU if isinstance(value, torch.device) else value

    return tree_map(hold, values)


def _require_one_device(operation: Any, args: Any, named: Any) -> None:
    """As on a GPU, single numbers may be on the CPU."""
    tensors = [leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, Tensor)]
    others = [t for t in tensors if not isinstance(t, OnDevice) and t.dim() > 0]
    if others:
        raise RuntimeError(f"{operation}: tensors on the device and {len(others)} that are not")


def _run(operation: Any, args: Any, named: Any) -> Any:
    global operations
    if operation is torch.ops.prim.device.default:
        return _DEVICE
    inputs = [leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, OnDevice)]
    target = named.get("device")
    # Indices may be on the CPU where what is indexed is on the device.
    is_mixed = operation in _COPIES or (operation in _INDEXING and isinstance(args[0], OnDevice))
    if inputs and not is_mixed:
        _require_one_device(operation, args, named)
    result = operation(*_hold(args), **_hold(named))
    to_cpu = (target is not None and not _is_gpu(target)) or (
        operation is _ATEN.copy_.default and not isinstance(args[0], OnDevice)
    )
    if to_cpu or not (inputs or _is_gpu(target)):
        return result
    operations += 1
    holders = {id(leaf.held): leaf for leaf in inputs}
    return tree_map(
        lambda leaf: _put_on_device(leaf, holders) if isinstance(leaf, Tensor) else leaf, result
    )


def _put_on_device(tensor: Tensor, holders: dict[int, OnDevice]) -> OnDevice:
    """As the input it is, where an operation changed one in place."""
    return holders[id(tensor)] if id(tensor) in holders else OnDevice(tensor)


def _move_module(module: nn.Module, move: Any, recurse: bool = True) -> nn.Module:
    """``nn.Module._apply`` for tensors that cannot take the place of others in memory."""
    del recurse
    for child in module.children():
        _move_module(child, move)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            moved = move(parameter.data)
            module._parameters[name] = nn.Parameter(moved, requires_grad=False)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = move(buffer)
    return module


def main() -> None:
    """Print the first candidate of a full preparation, of a first look and of a click."""
    photo, expression = Path(sys.argv[1]).read_bytes(), sys.argv[2]
    # Before the worker is imported: its decorators take what they find.
    torch.inference_mode = torch.no_grad  # type: ignore[assignment,misc]
    nn.Module._apply = _move_module  # type: ignore[method-assign,assignment]
    torch.cuda.is_bf16_supported = lambda: True  # type: ignore[assignment]
    with FakeTensorMode():
        # After a first one PyTorch asks for a driver no more.
        torch.zeros(2, 3, device=_DEVICE).t().contiguous()
    with _Functions(), _Dispatch():
        print(json.dumps(_answer(photo, expression)))


def _answer(photo: bytes, expression: str) -> dict[str, Any]:
    from saymask_worker.config.settings import load_worker_settings
    from saymask_worker.images.types import VisualPrompt
    from saymask_worker.pipeline.build import build_pipeline

    settings = load_worker_settings(
        encoder="starter", device=str(_DEVICE), first_look="on", points_per_side=6
    )
    pipeline = build_pipeline(settings)
    pipeline.cache = None
    before = operations
    prepared, timings = pipeline.prepare(photo)
    during = operations - before
    full = pipeline.segment(prepared, expression, 1, preparation=timings)
    look = pipeline.look_first(photo)
    first = pipeline.segment(look[0], expression, 1, preparation=look[1])
    click = VisualPrompt(((60.0, 60.0),), (True,), None, None)
    clicked = pipeline.refine(pipeline.embed(photo), expression, click, 1, from_cache=False)
    results = {"full": full, "first": first, "clicked": clicked}
    masks = {name: result.candidates[0].mask.as_dict() for name, result in results.items()}
    return {"operations": during, "masks": masks}


if __name__ == "__main__":
    main()
