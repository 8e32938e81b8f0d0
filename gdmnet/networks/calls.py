"""How often generators are called: what a prediction costs, whatever the machine."""

from __future__ import annotations

from types import TracebackType

from torch import nn

from gdmnet.networks.unet import Generator


class CountCalls:
    """Count the calls of every generator in a module, inside a with block."""

    def __init__(self, module: nn.Module) -> None:
        self.count = 0
        self._generators = [part for part in module.modules() if isinstance(part, Generator)]
        self._hooks: list = []

    def __enter__(self) -> CountCalls:
        self.count = 0
        self._hooks = [part.register_forward_hook(self._called) for part in self._generators]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _called(self, *_: object) -> None:
        self.count += 1
