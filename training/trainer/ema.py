"""A running average of the trained parameters, kept in fp32 beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class Ema:
    """average = decay * average + (1 - decay) * parameter, after every step."""

    def __init__(self, parameters: Mapping[str, torch.Tensor], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.averages = {
            name: parameter.detach().clone() for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters of the step just done into the averages."""
        torch._foreach_lerp_(
            list(self.averages.values()), list(self._parameters.values()), 1 - self._decay
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the parameters hold the averages for as long as the context lasts."""
        with torch.no_grad():
            trained = {name: value.detach().clone() for name, value in self._parameters.items()}
            self._put(self.averages)
            try:
                yield
            finally:
                self._put(trained)

    def _put(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
