"""Gradients of one module from several single-thread processes: on a busy machine, two of them beat two threads."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from pipeline.processes import die_with_parent

Loss = Callable[[nn.Module, int], Tensor]
"""The loss of a batch of the worker's own at this step."""
WorkerSetup = Callable[[int], Loss]
"""Makes the loss function of one worker from its number, inside its process."""


class Gradients:
    """``workers`` processes that share the weights; each call of ``add_up`` leaves the mean gradient in the module."""

    def __init__(self, module: nn.Module, setup: WorkerSetup, workers: int) -> None:
        self._module, self._count = module, workers
        self._loss = setup(0)
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        if workers == 1:
            return
        context = mp.get_context("fork")
        module.share_memory()
        self._shared = [[torch.zeros_like(p).share_memory_() for p in self._parameters] for _ in range(workers - 1)]
        self._losses = torch.zeros(workers - 1).share_memory_()
        self._gate = context.Barrier(workers)
        self._step: Any = context.Value("q", -1)
        for index in range(1, workers):
            context.Process(target=self._work, args=(index, setup, os.getpid()), daemon=True).start()

    def add_up(self, step: int) -> float:
        """The mean loss of this step."""
        if self._count > 1:
            self._step.value = step
            self._gate.wait()
        loss = self._loss(self._module, step)
        loss.backward()
        mean = loss.item()
        if self._count > 1:
            self._gate.wait()
            for number, parameter in enumerate(self._parameters):
                for gradients in self._shared:
                    if parameter.grad is not None:
                        parameter.grad.add_(gradients[number])
                if parameter.grad is not None:
                    parameter.grad.div_(self._count)
            mean = (mean + self._losses.sum().item()) / self._count
        return mean

    def _work(self, index: int, setup: WorkerSetup, parent: int) -> None:
        if not die_with_parent(parent, signal.SIGTERM):
            return
        torch.set_num_threads(1)
        loss_of = setup(index)
        while True:
            self._gate.wait()
            loss = loss_of(self._module, self._step.value)
            loss.backward()
            for shared, parameter in zip(self._shared[index - 1], self._parameters, strict=True):
                if parameter.grad is None:
                    shared.zero_()
                else:
                    shared.copy_(parameter.grad)
                parameter.grad = None
            self._losses[index - 1] = loss.item()
            self._gate.wait()
