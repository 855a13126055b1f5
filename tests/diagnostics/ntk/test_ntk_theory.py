"""What arXiv:2606.09762 and its propositions say about the NTK, on networks with known answers. float64."""

import itertools
import math

import pytest
import torch
from torch import nn

from isoplast.diagnostics import jacobian, ntk
from isoplast.isometry import polar_factor
from isoplast.nn import MaxMin

# Products of five orthogonal matrices, sums over thousands of terms, relative.
EXACT = 1e-10


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def network(sizes, activation, weight, bias=False):
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        linear = nn.Linear(inputs, outputs, bias=bias, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(weight(torch.randn(outputs, inputs, dtype=torch.float64)))
        layers += [linear, activation]
    return nn.Sequential(*layers[:-1])


def test_deep_orthogonal_linear_network():
    """Eq 9: K = L X X^T (x) I; with the same condition number; every Jacobian an isometry."""
    model = network([24, 24, 24, 24, 24], nn.Identity(), polar_factor)
    x = torch.randn(6, 24, dtype=torch.float64)
    found = ntk(model, x, biases=False)
    gram = x @ x.T
    expected = 4 * torch.kron(gram, torch.eye(24, dtype=torch.float64))
    assert (found.matrix - expected).abs().max() < EXACT * expected.abs().max()
    assert found.condition_number == pytest.approx(float(torch.linalg.cond(gram)))
    assert (jacobian(model, x).singular_values - 1).abs().max() < EXACT


def test_biases_add_an_eigenvalue_along_the_constant_direction():
    model = network([12, 12, 12], nn.Identity(), polar_factor, bias=True)
    x = torch.randn(5, 12, dtype=torch.float64)
    without, complete = ntk(model, x, biases=False), ntk(model, x)
    ones = torch.kron(torch.ones(5, 5), torch.eye(12)).double()
    assert torch.allclose(complete.matrix - without.matrix, 2 * ones, atol=EXACT * 100)
    assert (without.parameters, complete.parameters) == (2 * 144, 2 * 156)
    assert "without biases" in str(without)
    memory = nn.LSTM(4, 3)  # bias_ih_l0, bias_hh_l0
    flat = nn.Sequential(memory)
    flat.forward = lambda x: memory(x)[0].flatten(1)
    assert ntk(flat, torch.randn(1, 4), biases=False).parameters == 4 * 3 * (4 + 3)


def test_isometric_maxmin_network_has_isotropic_blocks_within_samples():
    """K_ii = L |x_i|^2 I: exact; between the samples it is not isotropic."""
    model = network([32] * 5 + [8], MaxMin(), polar_factor)
    x = torch.randn(7, 32, dtype=torch.float64)
    blocks = ntk(model, x).matrix.view(7, 8, 7, 8)
    for i in range(7):
        expected = 5 * float(x[i] @ x[i]) * torch.eye(8, dtype=torch.float64)
        assert torch.allclose(blocks[i, :, i], expected, rtol=EXACT, atol=EXACT * float(expected[0, 0]))


@pytest.mark.parametrize("activation", [nn.Identity(), MaxMin(), nn.Tanh(), nn.LeakyReLU(0.3)])
@pytest.mark.parametrize("weight", [polar_factor, lambda w: w / math.sqrt(w.shape[1])])
def test_the_condition_number_is_bounded_layer_by_layer(activation, weight):
    """kappa(K) <= max_l kappa(H H^T) max_i sigma_max(df/dz)^2 / min_i sigma_min(df/dz)^2."""
    model = network([20, 20, 20, 20, 4], activation, weight)
    x = torch.randn(8, 20, dtype=torch.float64)
    bound, hidden = 0.0, x
    for index in range(0, len(model), 2):
        forward = torch.linalg.cond(hidden @ hidden.T)
        after = model[index](hidden).detach()
        rest = nn.Sequential(nn.Identity(), *model[index + 1 :])
        backward = jacobian(rest, after, layers=False).singular_values
        bound = max(bound, float(forward * (backward.max() / backward.min()) ** 2))
        hidden = model[index : index + 2](hidden).detach()
    found = ntk(model, x).condition_number
    assert 1 <= found <= bound * (1 + 1e-8)
    if isinstance(activation, nn.Identity) and weight is polar_factor:
        assert found == pytest.approx(bound)


def test_participation_rank_is_the_average_progress_of_the_best_step():
    """P_1 = PR / m for the linearised squared loss, by Monte Carlo over random directions."""
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    found = ntk(model, torch.randn(8, 6, dtype=torch.float64))
    k, m = found.matrix, found.size
    residuals = torch.randn(20_000, m, dtype=torch.float64)
    step = float(k.trace() / k.square().sum())
    after = residuals - step * residuals @ k
    progress = 1 - after.square().sum(1) / residuals.square().sum(1)
    error = float(progress.std()) / len(progress) ** 0.5
    assert abs(float(progress.mean()) - found.one_step_plasticity) < 4 * error
    assert error < 0.01 * found.one_step_plasticity
    # No other step does better on average.
    for other in (0.8 * step, 1.2 * step):
        moved = residuals - other * residuals @ k
        assert (1 - moved.square().sum(1) / residuals.square().sum(1)).mean() < progress.mean()


def test_alignment_is_the_first_order_progress_of_a_gradient_step():
    """Eq 3: the loss falls by eta g^T K g, for cross-entropy and for the squared loss."""
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x = torch.randn(8, 6, dtype=torch.float64)
    losses = [
        (torch.randint(3, (8,)), nn.CrossEntropyLoss(reduction="sum"), True),
        (torch.randn(8, 3, dtype=torch.float64), lambda f, y: 0.5 * (f - y).square().sum(), False),
    ]
    for targets, loss, centred in losses:
        outputs = model(x)
        gradient = torch.autograd.grad(loss(outputs, targets), outputs, retain_graph=True)[0]
        by_weights = torch.autograd.grad(loss(outputs, targets), list(model.parameters()))
        progress = sum(float(g.square().sum()) for g in by_weights)  # g^T J J^T g
        found = ntk(model, x, targets=targets)
        assert found.alignment == pytest.approx(progress / float(gradient.square().sum()) / found.mean)
        if centred:
            other = ntk(model, x, targets=targets, centred=True)
            assert other.alignment * other.mean == pytest.approx(found.alignment * found.mean)


def test_centred_kernels_do_not_count_the_mean_as_zeros():
    model = network([20, 20, 20, 4], nn.Identity(), polar_factor)
    x = torch.randn(5, 20, dtype=torch.float64)
    plain, centred = ntk(model, x), ntk(model, x, centred=True)
    assert (plain.size, centred.size) == (20, 15)
    assert len(centred.eigenvalues) == 15
    # K = X X^T (x) I: the same spectrum with multiplicity 3 instead of 4.
    assert centred.condition_number == pytest.approx(plain.condition_number)
    assert torch.allclose(centred.eigenvalues[::3], plain.eigenvalues[::4])
    projection = torch.eye(4).double() - 0.25
    expected = torch.kron(torch.eye(5).double(), projection)
    assert torch.allclose(centred.matrix, expected @ plain.matrix @ expected, atol=EXACT * 100)


def test_the_numbers_are_those_of_the_eigenvalues():
    model = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 2)).double()
    found = ntk(model, torch.randn(6, 5, dtype=torch.float64))
    values = torch.linalg.eigvalsh(found.matrix)
    shares = values / values.sum()
    expected = {
        "condition_number": values[-1] / values[0],
        "participation_rank": values.sum() ** 2 / values.square().sum(),
        "effective_rank": torch.exp(-(shares * shares.log()).sum()),
        "isotropy_gap": torch.linalg.norm(found.matrix / values.mean() - torch.eye(12).double()),
        "std": values.std(correction=0),
        "mean": values.mean(),
        "trace": found.matrix.trace(),
        "rank": 12,
    }
    flat = found.as_dict()
    for name, value in expected.items():
        assert flat[name] == pytest.approx(float(value), rel=1e-8), name
    assert found.isotropy_gap == pytest.approx(math.sqrt(12**2 / found.participation_rank - 12))


def test_more_outputs_than_parameters_and_dead_networks_are_singular():
    model = nn.Linear(2, 2, bias=False).double()
    found = ntk(model, torch.randn(5, 2, dtype=torch.float64))
    assert found.rank == 4
    assert found.condition_number == math.inf
    dead = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2, bias=False)).double()
    with torch.no_grad():
        dead[0].bias.fill_(-100.0)
    found = ntk(dead, torch.randn(4, 3, dtype=torch.float64))
    assert (found.rank, found.participation_rank, found.effective_rank, found.trace) == (0, 0, 0, 0)
    assert found.condition_number == math.inf
    assert found.finite
