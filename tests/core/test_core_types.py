"""What follows a protocol."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tiny
from lowerbound.core.types import Data, Model, Objective, follows


class Registered(nn.Module):
    """A model whose programs are submodules and whose methods come from two classes."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.register_module(name, nn.Identity())

    def programs(self, x): ...

    def describe(self): ...


@pytest.mark.parametrize(
    "value, protocol, expected",
    [
        (Registered("generator", "posterior"), Model, True),
        (Registered("generator"), Model, False),
        (tiny.vae(), Model, True),
        (tiny.objective(), Objective, True),
        (tiny.vae(), Objective, False),
        (tiny.rows(), Data, True),
        (tiny.Rows(torch.zeros(3, 2)), Data, True),
        (torch.zeros(3), Data, False),
        ([], Data, False),
    ],
)
def test_members_that_a_module_registers_count(value, protocol, expected):
    assert follows(value, protocol) is expected


@pytest.mark.parametrize("name", ["event_shape", "__len__", "batches", "evaluation_batches", "describe"])
def test_every_member_is_asked_for(name):
    members = {member: lambda self: None for member in ("__len__", "batches", "evaluation_batches", "describe")}
    kind = type("Kind", (), {**members, "event_shape": ()})
    assert follows(kind(), Data)
    delattr(kind, name)
    assert not follows(kind(), Data)
