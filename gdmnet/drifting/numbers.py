"""Numbers that the host decides by, kept on the host: a device must not be waited for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class NumbersModule(nn.Module):
    """A module whose plain numbers are saved under their names, as its buffers are.

    They are the public int and float attributes of its class, where their first values stand.
    """

    def __init__(self) -> None:
        super().__init__()
        own = {name: type(first) for name, first in vars(type(self)).items() if name[0] != "_"}
        self._numbers = {name: kind for name, kind in own.items() if kind in (int, float)}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:  # noqa: ANN401
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, kind in self._numbers.items():
            dtype = torch.int64 if kind is int else torch.float64
            destination[prefix + name] = torch.tensor(getattr(self, name), dtype=dtype)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:  # noqa: ANN401
        missing: list[str] = args[2]
        for name, kind in self._numbers.items():
            if prefix + name in state_dict:
                setattr(self, name, kind(state_dict.pop(prefix + name)))
            else:
                missing.append(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *args)


def on_device(values: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device, in the order of its work: the host goes on at once."""
    if device.type == "cuda" and values.numel() > 0:
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
