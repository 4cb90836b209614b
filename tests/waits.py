"""What would make a program wait for its GPU, counted on a CPU: where a value is read, or a shape depends on one."""

from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode


# Kernels: that of `item`, and so of `bool`, `float` and `int`; and those whose results have a shape by values.
WAITING = {
    "_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "repeat_interleave", "unique_dim",
    "unique_consecutive", "_unique", "_unique2", "bincount",
}  # fmt: skip
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
# What calls no kernel that waits on a CPU: values that are read, and numbers of Python that are copied to the device.
METHODS = [(torch.Tensor, name) for name in ("tolist", "numpy", "cpu", "__array__")]
METHODS += [(torch, "tensor"), (torch, "from_numpy")]


class Waits(TorchDispatchMode):
    """Counts them while it is entered, forward and backward.

    A CPU cannot tell a copy to another device: `.to(device)` is not counted, but `.cpu()` and `.to("cpu")` are.

    Attributes:
        found: The names of what waited, in order.
    """

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __enter__(self):
        self.patches = ExitStack()
        for owner, name in METHODS:
            self.patches.enter_context(patch.object(owner, name, self._counting(getattr(owner, name))))
        to = self._counting(torch.Tensor.to, lambda given: "cpu" in given)
        self.patches.enter_context(patch.object(torch.Tensor, "to", to))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.patches.close()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        by_mask = name in INDEXING and any(
            index.dtype in (torch.bool, torch.uint8) for index in arguments[1] if index is not None
        )
        if name in WAITING or by_mask:
            self.found.append(name)
        return function(*arguments, **(options or {}))

    def _counting(self, function, waits=lambda given: True):
        def counted(*arguments, **options):
            if waits([given for given in (*arguments, *options.values()) if isinstance(given, str)]):
                self.found.append(function.__name__)
            return function(*arguments, **options)

        return counted
