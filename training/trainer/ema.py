"""A running average of the trained parameters, kept in fp32 beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class Ema:
    """average = d * average + (1 - d) * parameter, after every step.

    d is the decay, but at first no more than (1 + step) / (10 + step), as in TensorFlow's
    ExponentialMovingAverage: what the weights were at the beginning is forgotten.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.averages = {
            name: parameter.detach().clone() for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the parameters of the step just done, counted from 0, into the averages."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.averages.values()), list(self._parameters.values()), 1 - decay
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
