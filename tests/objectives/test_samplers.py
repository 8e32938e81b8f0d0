"""Samplers and paths against what is known by arithmetic, without any training."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from objectives.small import (
    NARROW,
    WIDE,
    TimedGenerator,
    half_mask,
    make_batch,
    make_context,
    planned,
)

from gdmnet.errors import TrainingError
from gdmnet.objectives.bridge import on_path, variances
from gdmnet.objectives.build import OBJECTIVES
from gdmnet.objectives.diffusion import cosine_schedule, ddim_step, noised
from gdmnet.objectives.flow import SOLVERS, integrate
from gdmnet.objectives.options import N_TIMES
from gdmnet.objectives.sampling import Sampling, times_down

MANY = (1, 1, 20, 30, 30)  # voxels that stand for as many draws


def build(name, context=None, **options):
    return OBJECTIVES[name](context or make_context(**options))


def draws(shape=MANY, seed=5):
    rng = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=rng)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_solvers_have_the_order_that_they_are_known_for(solver, order):
    start = torch.tensor([0.5, -1.0], dtype=torch.float64)
    exact = start * math.exp(math.sin(3.0))  # of dz/dt = 3 cos(3 t) z

    def error(steps):
        velocity = lambda z, t: 3 * math.cos(3 * t) * z  # noqa: E731
        return float((integrate(velocity, start, solver, steps) - exact).abs().max())

    coarse, fine = error(32), error(64)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def gaussian_velocity(mean, width, start_width):
    """E[y - z_0 | z_t] of independent y ~ N(mean, width^2) and z_0 ~ N(0, start_width^2)."""

    def velocity(state, time):
        variance = ((1 - time) * start_width) ** 2 + (time * width) ** 2
        slope = (time * width**2 - (1 - time) * start_width**2) / variance
        return mean + slope * (state - time * mean)

    return velocity


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_the_flow_finds_the_map_between_two_gaussians(solver):
    objective = build("flow", noise=2.0)
    source, noise = torch.zeros(MANY), draws()()
    evaluate = gaussian_velocity(0.7, 0.3, 2.0)
    made = objective.sample(evaluate, source, draws(), Sampling(solver, 128))
    expected = 0.7 + 0.3 / 2.0 * (2.0 * noise)
    assert (made - expected).abs().max() < (0.05 if solver == "euler" else 1e-3)


def test_a_flow_from_the_source_follows_straight_paths_in_any_number_of_steps():
    objective = build("flow", start="source", sigma=0.0)
    source = draws(seed=2)()

    def evaluate(state, time):  # y = 0.7 - 0.5 x, so that z_t = (1 - t) x + t y gives x
        x = (state - 0.7 * time) / (1 - 1.5 * time)
        return 0.7 - 1.5 * x

    for steps in (1, 2, 5):
        made = objective.sample(evaluate, source, draws(), Sampling("euler", steps))
        assert torch.allclose(made, 0.7 - 0.5 * source, atol=1e-5)


def test_at_the_source_the_flow_is_a_regression_of_the_difference(monkeypatch):
    objective = build("flow", start="source", sigma=0.0)
    monkeypatch.setattr(objective, "draw_times", lambda n, rng: torch.zeros(n))
    batch = make_batch(0, mask=half_mask())
    generator, other = TimedGenerator(), TimedGenerator()
    descent = objective.descend(generator, batch, torch.Generator())
    (descent.tensor * descent.cotangent).sum().backward()
    visible = torch.where(batch.mask > 0.5, batch.source, 0.0)
    output = other(torch.cat([batch.source, visible], dim=1), torch.zeros(2))
    error = (output - (batch.target - batch.source)).square() * batch.mask
    (error.sum() / batch.mask.sum()).backward()
    for mine, theirs in zip(generator.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-5, atol=1e-8)


def bridge_predictor(objective, slope, offset, spread):
    """(x_t - E[y | x_t, x]) / s for y ~ N(slope x + offset, spread^2) and the source x."""

    def predictor(source):
        prior = slope * source + offset

        def evaluate(state, time):
            gathered = objective.variances[round(time * N_TIMES)]
            total = objective.variances[-1]
            share = 1 - gathered / total
            noise = 0.0 if objective.is_ode else gathered * share
            gain = spread**2 * share / ((spread * share) ** 2 + noise)
            if share == 0:
                gain = 0.0
            target = prior + gain * (state - share * prior - (1 - share) * source)
            return (state - target) / gathered.sqrt()

        return evaluate

    return predictor


def test_the_bridge_samples_what_a_gaussian_source_leaves_open():
    objective = build("bridge")
    source = draws(seed=2)()
    predictor = bridge_predictor(objective, -0.5, 0.7, 0.3)
    made = objective.sample(predictor(source), source, draws(), Sampling("sde", N_TIMES))
    rest = made - (0.7 - 0.5 * source)
    assert float(rest.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(rest.std()) == pytest.approx(0.3, rel=0.03)
    assert abs(float((rest * source).mean())) < 0.01


def test_the_ode_of_the_bridge_finds_the_map_between_two_gaussians():
    objective = build("bridge", ot_ode=True)
    source = draws(seed=2)()

    def evaluate(state, time):  # y = 0.3 x + 0.7 on the straight path gives x, and x gives y
        gathered = objective.variances[round(time * N_TIMES)]
        share = gathered / objective.variances[-1]
        x = (state - (1 - share) * 0.7) / ((1 - share) * 0.3 + share)
        return (state - (0.3 * x + 0.7)) / gathered.sqrt()

    for steps in (1, 4, 50):
        made = objective.sample(evaluate, source, draws(), Sampling("ode", steps))
        assert torch.allclose(made, 0.3 * source + 0.7, atol=1e-5)


def test_the_paths_of_the_bridge_are_mirrored_and_end_at_both_images():
    gathered = variances(1.0)
    steps = gathered.diff()
    assert torch.allclose(steps, steps.flip(0))
    assert float(gathered[-1]) == pytest.approx(0.141, abs=0.001)  # beta_max 0.3, N 1000
    y, x = torch.full((1,), 3.0), torch.full((1,), -1.0)
    for level, image in ((0, y), (N_TIMES, x)):
        mean, variance = on_path(y, x, gathered[level], gathered[-1])
        assert torch.allclose(mean, image)
        assert float(variance) == pytest.approx(0.0, abs=1e-9)


def test_the_bridge_is_as_noisy_as_its_target_is_wide():
    wide, narrow = (build("bridge", planned(make_context(), target=t)) for t in (WIDE, NARROW))
    assert torch.allclose(narrow.variances, wide.variances / 16)


@pytest.mark.parametrize(("n", "m"), [(1000, 999), (1000, 500), (400, 20), (7, 0)])
def test_ddim_with_all_noise_is_the_posterior_of_ancestral_sampling(n, m):
    target, state = draws(seed=3)().double(), draws(seed=4)().double()
    a_t, a_s = cosine_schedule()[n], cosine_schedule()[m]
    alpha, beta = a_t / a_s, 1 - a_t / a_s  # Ho et al., Eq. 6 and 7, between any two times
    mean = (a_s.sqrt() * beta * target + alpha.sqrt() * (1 - a_s) * state) / (1 - a_t)
    found, sigma = ddim_step(target, state, a_t, a_s, 1.0)
    assert torch.allclose(found, mean, atol=1e-12)
    assert float(sigma) == pytest.approx(float((beta * (1 - a_s) / (1 - a_t)).sqrt()))


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_ddim_without_noise_returns_what_an_oracle_predicts(steps):
    objective = build("diffusion")
    target = draws(seed=9)()
    states = []

    def oracle(state, time):
        states.append((state, time))
        return target

    made = objective.sample(oracle, torch.zeros(MANY), draws(), Sampling("ddim", steps))
    assert torch.equal(made, target)
    noise = draws()()
    for state, time in states[:: max(1, steps // 7)]:  # all of them on one path
        kept = objective.kept[round(1000 * time)]
        assert torch.allclose(state, noised(target, noise, kept), atol=1e-3)


def test_diffusion_finds_the_map_between_two_gaussians():
    objective = build("diffusion")

    def evaluate(state, time):  # E[y | x_t] of y ~ N(0.7, 0.3^2)
        kept = objective.kept[round(1000 * time)]
        gain = kept.sqrt() * 0.09 / (kept * 0.09 + 1 - kept)
        return 0.7 + gain * (state - kept.sqrt() * 0.7)

    source, noise = torch.zeros(MANY), draws()()
    flowing = objective.sample(evaluate, source, draws(), Sampling("ddim", 1000))
    assert (flowing - (0.7 + 0.3 * noise)).abs().max() < 0.03
    made = objective.sample(evaluate, source, draws(), Sampling("ancestral", 1000))
    assert float(made.mean()) == pytest.approx(0.7, abs=0.01)
    assert float(made.std()) == pytest.approx(0.3, rel=0.03)


def test_the_cosine_schedule_keeps_all_at_first_and_nothing_at_last():
    kept = cosine_schedule()
    assert len(kept) == 1001
    assert float(kept[0]) == 1.0
    assert (kept.diff() < 0).all()
    assert float(kept[500]) == pytest.approx(0.5, abs=0.02)
    assert float(kept[-1]) < 1e-6


@pytest.mark.parametrize("steps", [1, 3, 16, 1000])
def test_times_run_from_the_last_to_none(steps):
    levels = times_down(1000, steps)
    assert (levels[0], levels[-1], len(levels)) == (1000, 0, steps + 1)
    assert all(later > sooner for later, sooner in pairwise(levels))


def test_the_start_channel_is_the_one_that_paths_start_from():
    context = make_context(start="source", start_channel=1, sigma=0.0)
    context = planned(context, sources=(WIDE, WIDE))
    source = torch.stack([torch.zeros(MANY[2:]), torch.ones(MANY[2:])])[None]
    start = build("flow", context).start(source, draws()())
    assert torch.equal(start, torch.ones(MANY))
    narrow = planned(context, target=NARROW)
    assert torch.equal(build("flow", narrow).start(source, draws()()), torch.full(MANY, 0.25))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("flow", {"start": "source", "start_channel": 1}, r"has 1 \(0 to 0\)"),
        ("bridge", {"start_channel": 2}, r"--start-channel 2: .* has 1 \(0 to 0\)"),
    ],
)
def test_what_an_objective_cannot_use_is_refused_in_one_line(name, options, words):
    with pytest.raises(TrainingError, match=words) as error:
        build(name, **options)
    assert "\n" not in str(error.value)
