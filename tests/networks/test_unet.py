import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from gdmnet.networks.unet import CountCalls, Generator, embed_time
from gdmnet.plan import Architecture

SMALL = Architecture(
    features=(4, 8, 8),
    kernels=((3, 3, 3),) * 3,
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    blocks=(1, 2, 1),
)
FLAT = Architecture(
    features=(4, 8, 8),
    kernels=((1, 3, 3),) * 3,
    strides=((1, 1, 1), (1, 2, 2), (1, 2, 2)),
    blocks=(1, 1, 1),
)
MIXED = Architecture(
    features=(4, 8, 8),
    kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 1)),
    blocks=(1, 1, 1),
)


def randomised(net):
    """The network with no weight at zero, as after some training."""
    for parameter in net.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
        elif parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, 0, 0.5)
    return net


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        (SMALL, (16, 16, 16)),
        (SMALL, (9, 17, 12)),
        (SMALL, (4, 4, 4)),
        (SMALL, (1, 1, 1)),
        (FLAT, (1, 32, 24)),
        (FLAT, (5, 15, 18)),
        (MIXED, (6, 16, 12)),
        (MIXED, (5, 7, 3)),
    ],
)
def test_every_size_comes_back_and_can_be_trained_on(architecture, size):
    net = randomised(Generator(architecture, n_sources=2))
    output = net(torch.randn(2, 2, *size))
    assert output.shape == (2, 1, *size)
    output.abs().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_a_residual_generator_starts_as_its_source():
    net = Generator(SMALL, n_sources=3, extra_channels=2, residual_channel=1)
    x = torch.randn(2, 5, 8, 12, 8)
    assert torch.equal(net(x), x[:, 1:2])


def test_a_residual_generator_leaves_its_start():
    net = Generator(SMALL, n_sources=1, residual_channel=0)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    x = torch.randn(1, 1, 8, 8, 8)
    for _ in range(2):
        optimiser.zero_grad()
        (net(x) - 2 * x).abs().mean().backward()
        optimiser.step()
    assert not torch.equal(net(x), x)
    assert net.stem[0].weight.grad.abs().max() > 0


def test_every_weight_learns():
    net = randomised(Generator(MIXED, n_sources=1))
    net(torch.randn(1, 1, 8, 16, 8)).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())


def test_a_few_steps_reduce_the_error():
    net = Generator(SMALL, n_sources=1)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    x = torch.randn(2, 1, 8, 8, 8)
    y = F.avg_pool3d(x, 3, 1, 1) * 3 + 1
    errors = []
    for _ in range(30):
        optimiser.zero_grad()
        error = (net(x) - y).abs().mean()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0]


def interior_pattern(net):
    """Relative deviation from a constant, far from the border, on a constant input."""
    with torch.no_grad():
        output = net(torch.full((1, 1, 1, 96, 96), 0.7))[..., 40:56, 40:56]
    return ((output.max() - output.min()) / output.abs().max().clamp_min(1e-3)).item()


def test_upsampling_leaves_no_checkerboard(monkeypatch):
    net = randomised(Generator(FLAT, n_sources=1))
    assert interior_pattern(net) < 1e-4

    def as_transposed_convolutions_do(x, size, **_):
        raised = x.new_zeros(*x.shape[:2], *size)
        raised[..., ::2, ::2] = x
        return raised

    monkeypatch.setattr(F, "interpolate", as_transposed_convolutions_do)
    assert interior_pattern(net) > 1e-2  # the test would notice


def test_upsampling_keeps_a_ramp_straight():
    stage = Generator(FLAT, n_sources=1).decoder[-1]
    torch.nn.init.constant_(stage.reduce.weight, 1 / 8)
    seen = []
    stage.merge.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    ramp = torch.arange(16.0).expand(1, 8, 1, 16, 16)
    stage(ramp, torch.zeros(1, 4, 1, 32, 32))
    steps = seen[0][0, 0, 0, 8, 2:-2].diff()
    assert torch.allclose(steps, torch.full_like(steps, 0.5), atol=1e-5)


def test_the_state_has_every_weight_once():
    net = Generator(SMALL, n_sources=1)
    state = net.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    assert sum(t.numel() for t in state.values()) == sum(p.numel() for p in net.parameters())


def test_a_saved_state_gives_the_same_output():
    first, second = (randomised(Generator(MIXED, n_sources=1)) for _ in range(2))
    x = torch.randn(1, 1, 4, 8, 8)
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


def test_equal_seeds_give_equal_gradients_to_the_bit():
    gradients = []
    for _ in range(2):
        torch.manual_seed(3)
        net = Generator(SMALL, n_sources=1)
        net(torch.randn(2, 1, 8, 16, 8)).abs().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert torch.equal(*gradients)


def test_samples_of_a_batch_do_not_meet():
    net = randomised(Generator(SMALL, n_sources=1))
    x = torch.randn(2, 1, 8, 8, 8)
    assert torch.allclose(net(x)[:1], net(x[:1]), atol=1e-5)


def test_the_output_is_fine_grained_under_bfloat16():
    net = randomised(Generator(SMALL, n_sources=1, residual_channel=0))
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(x)
    assert output.dtype == torch.float32
    assert (output != output.bfloat16().float()).float().mean() > 0.9


def test_an_ill_formed_architecture_is_refused():
    with pytest.raises(ValueError, match="one entry a stage"):
        Generator(Architecture((4, 8), ((3, 3, 3),), ((1, 1, 1),), (1,)), n_sources=1)
    with pytest.raises(ValueError, match="first stride of 1"):
        Generator(Architecture((4,), ((3, 3, 3),), ((2, 2, 2),), (1,)), n_sources=1)
    with pytest.raises(ValueError, match="residual channel 2 of 2"):
        Generator(SMALL, n_sources=2, extra_channels=1, residual_channel=2)


def with_and_without_time():
    """Two generators with the same weights, but one of them takes times."""
    plain = randomised(Generator(SMALL, n_sources=2, extra_channels=1))
    timed = Generator(SMALL, n_sources=2, extra_channels=1, time=True)
    missing, unexpected = timed.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    return plain, timed, missing


def test_without_time_nothing_of_it_is_there():
    torch.manual_seed(3)
    plain = Generator(SMALL, n_sources=1)
    assert not any("time" in name or "film" in name for name in plain.state_dict())
    with pytest.raises(ValueError, match="times"):
        plain(torch.zeros(1, 1, 4, 4, 4), torch.zeros(1))


def test_the_modulation_by_time_starts_as_the_identity():
    plain, timed, missing = with_and_without_time()
    assert missing
    assert all(name.startswith("time.") or ".film." in name for name in missing)
    x = torch.randn(2, 3, 8, 12, 8)
    for moment in (0.0, 0.3, 1.0):
        assert torch.equal(timed(x, torch.full((2,), moment)), plain(x))
    with pytest.raises(ValueError, match="times"):
        timed(x)


def test_every_block_and_stage_learns_from_the_time_of_its_own_patch():
    _, timed, _ = with_and_without_time()
    x = torch.randn(1, 3, 8, 12, 8).repeat(2, 1, 1, 1, 1)
    output = timed(x, torch.tensor([0.1, 0.8]))
    (output[0] - output[1]).sum().backward()
    films = [weights for name, weights in timed.named_parameters() if ".film." in name]
    assert len(films) == 2 * (sum(SMALL.blocks) + len(SMALL.features) - 1)
    assert all(weights.grad.abs().max() > 0 for weights in films if weights.ndim == 2)
    randomised(timed)
    output = timed(x, torch.tensor([0.1, 0.8]))
    assert not torch.allclose(output[0], output[1])
    alone = timed(x[:1], torch.tensor([0.8]))
    assert torch.allclose(alone, output[1:], atol=1e-5)


def test_times_are_told_apart_also_under_bfloat16():
    waves = embed_time(torch.tensor([0.5, 0.501, 0.9]))
    assert waves.shape == (3, 64)
    assert waves.dtype == torch.float32
    assert (waves[0] - waves[1]).abs().max() > 0.1
    _, timed, _ = with_and_without_time()
    randomised(timed)
    with torch.autocast("cpu", torch.bfloat16):
        output = timed(torch.randn(2, 3, 8, 8, 8), torch.tensor([0.1, 0.8]))
    assert output.dtype == torch.float32


def test_every_call_of_every_generator_is_counted_and_only_inside_the_block():
    networks = torch.nn.ModuleList(Generator(SMALL, n_sources=1) for _ in range(2))
    image = torch.zeros(1, 1, 8, 8, 8)
    networks[0](image)
    with torch.no_grad(), CountCalls(networks) as calls:
        for network in networks:
            network(image)
        networks[0](image)
    assert calls.count == 3
    networks[0](image)
    assert calls.count == 3
