from __future__ import annotations

import torch
from torch import nn

from gdmnet.networks.calls import CountCalls
from gdmnet.networks.unet import build_generator
from gdmnet.plan import Architecture


def test_every_call_of_every_generator_is_counted_and_only_inside_the_block():
    architecture = Architecture((4, 8), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)), (1, 1))
    networks = nn.ModuleList(build_generator(architecture, n_sources=1) for _ in range(2))
    image = torch.zeros(1, 1, 8, 8, 8)
    networks[0](image)
    with torch.no_grad(), CountCalls(networks) as calls:
        for network in networks:
            network(image)
        networks[0](image)
    assert calls.count == 3
    networks[0](image)
    assert calls.count == 3
