"""A pretend GPU, for machines without one: its tensors hold data and refuse what CUDA refuses.

Run as a program, it measures `headrace bench adapt` at its smallest on it: learning, adapting,
ranking, and the other ways that these are compared with. Copies between devices are asked for, or
refused; only numbers and indexes may lie on the other one. It registers a device for good, so it
runs in a process of its own.
"""

import copy
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

GPU = torch.device("cpu")  # until there is one
aten = torch.ops.aten
INDEXING = {
    *(aten.index.Tensor, aten.index_put.default, aten.index_put_.default),
    *(aten._index_put_impl_.default, aten._unsafe_index.Tensor),
}
CROSSING = {aten.copy_.default, aten.copy.default, aten._foreach_copy_.default}


class Module:
    """What torch asks a kind of device for."""

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass


class OnGpu(torch.Tensor):
    """A tensor that says that it is on the GPU; ``held`` has its data."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnGpu":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=GPU,
        )
        made.held = held.detach()
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnGpu":
        if id(self) not in memo:
            made = OnGpu(self.held.clone()).requires_grad_(self.requires_grad)
            if hasattr(self, "_is_param"):
                made._is_param = True
            made.grad = copy.deepcopy(self.grad, memo)
            memo[id(self)] = made
        return memo[id(self)]

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, call: Any, _: Any, given: Any = (), named: Any = None) -> Any:
        return computed(call, given, named or {})


class Computing(TorchDispatchMode):
    """Within it, tensors can be made on the GPU."""

    def __torch_dispatch__(self, call: Any, _: Any, given: Any = (), named: Any = None) -> Any:
        return computed(call, given, named or {})


def computed(call: Any, given: Any, named: dict[str, Any]) -> Any:
    """Return what a call of torch gives, on the device that it would be on."""
    tensors = [t for t in tree_leaves((given, named)) if isinstance(t, torch.Tensor)]
    held_by = {id(t.held): t for t in tensors if isinstance(t, OnGpu)}
    is_on_gpu = bool(held_by)
    if is_on_gpu and call not in CROSSING | {aten._to_copy.default}:
        refuse_mixed(call, given, tensors)
    if named.get("device") is not None:
        is_on_gpu = torch.device(named["device"]).type == GPU.type
        named = named | {"device": torch.device("cpu")}
    out = call(*tree_map(held_of, given), **tree_map(held_of, named))

    def on_gpu(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return held_by.get(id(value)) if id(value) in held_by else OnGpu(value)

    return tree_map(on_gpu, out) if is_on_gpu else out


def held_of(value: Any) -> Any:
    """Return the data of a tensor on the GPU, and anything else as it is."""
    return value.held if isinstance(value, OnGpu) else value


def refuse_mixed(call: Any, given: Any, tensors: list[torch.Tensor]) -> None:
    """Refuse tensors of two devices, but for what CUDA takes: numbers, and indexes."""
    if call in INDEXING:
        tensors = [t for t in (given[0], *given[2:3]) if isinstance(t, torch.Tensor)]
    is_mask = call in {aten.masked_fill.Scalar, aten.masked_fill_.Scalar}
    for tensor in tensors:
        if not isinstance(tensor, OnGpu) and (tensor.dim() > 0 or is_mask):
            raise RuntimeError(f"{call}: {tuple(tensor.shape)} is not on the GPU, as others are")


def main() -> None:
    """Measure on the pretend GPU, and print the rows."""
    global GPU
    _setup_privateuseone_for_python_backend("gpu", backend_module=Module())
    GPU = torch.device("gpu", 0)
    from headrace.streams.bench import adapt
    from headrace.streams.learn import learner
    from headrace.streams.settings import Settings

    learner.pick_device = lambda _: "gpu"
    small = {"encoder_width": 8, "encoder_length": 8, "neighbours": 8, "replay_tasks": 256}
    with Computing():
        rows = adapt.measure(Settings(**small), n_items=60, sizes=[3], repeats=1, n_users=12)
        model = learner.Learner(Settings(**small)).recommender
    devices = {parameter.device for parameter in model.meta.parameters()}
    print(*rows, *devices)


if __name__ == "__main__":
    main()
