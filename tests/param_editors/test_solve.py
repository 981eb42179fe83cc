"""Every closed form against an independent NumPy solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corrigenda.errors import UnstableUpdate
from corrigenda.param_editors import solve

F, N, D = 12, 4, 5
rng = np.random.default_rng(0)
TEXT = rng.standard_normal((200, F)) * np.linspace(0.05, 2, F)
C = TEXT.T @ TEXT / len(TEXT)
K = rng.standard_normal((F, N))
R = rng.standard_normal((D, N))


def close(found: torch.Tensor, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, atol=1e-11)


def factor() -> torch.Tensor:
    return solve.cholesky(torch.from_numpy(C))[0]


def test_memit_solves_the_normal_equations_in_both_forms():
    weight = 37.0
    delta = np.linalg.solve(weight * C + K @ K.T, K @ R.T).T  # min ‖ΔK − R‖² + λ·tr(ΔCΔᵀ)
    close(torch.from_numpy(R) @ solve.memit_factor(factor(), torch.from_numpy(K), weight), delta)
    close(torch.from_numpy(R) @ solve.memit_factor_direct(torch.from_numpy(C), torch.from_numpy(K), weight), delta)
    gradient = (delta @ K - R) @ K.T + weight * delta @ C
    assert np.abs(gradient).max() < 1e-9


def test_emmet_meets_its_constraints_as_the_ridge_goes_to_zero():
    alpha = 0.1
    inverse = np.linalg.inv(C)
    delta = R @ np.linalg.inv(K.T @ inverse @ K + alpha * np.eye(N)) @ K.T @ inverse
    close(torch.from_numpy(R) @ solve.emmet_factor(factor(), torch.from_numpy(K), alpha), delta)
    exact = torch.from_numpy(R) @ solve.emmet_factor(factor(), torch.from_numpy(K), 1e-12)
    np.testing.assert_allclose((exact.numpy() @ K), R, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("earlier", [False, True])
def test_alphaedit_solves_the_projected_system(earlier):
    ridge, threshold = 0.3, 0.5
    past = rng.standard_normal((F, 3)) if earlier else np.zeros((F, 0))
    values, vectors = np.linalg.eigh(C)
    null = vectors[:, values < threshold]
    projection = null @ null.T
    left = projection @ (K @ K.T + past @ past.T) + ridge * np.eye(F)
    delta = np.linalg.solve(left, projection @ K @ R.T).T  # the paper's system, f × f
    basis = solve.null_space(torch.from_numpy(C), threshold)
    found = solve.alphaedit_factor(basis, torch.from_numpy(K), torch.from_numpy(past) if earlier else None, ridge)
    close(torch.from_numpy(R) @ found, delta)
    outside = np.eye(F) - projection
    assert np.abs(delta @ outside).max() < 1e-9


def test_rome_points_along_the_whitened_key():
    wanted = np.linalg.inv(C) @ K[:, 0]
    close(solve.rome_direction(factor(), torch.from_numpy(K[:, 0])), wanted / np.linalg.norm(wanted))


def test_a_singular_moment_gets_the_smallest_ridge_and_says_so():
    thin = torch.from_numpy(TEXT[:5].T @ TEXT[:5] / 5)
    lower, ridge = solve.cholesky(thin)
    assert 0 < ridge < 1e-6 * float(thin.diagonal().mean())
    assert torch.allclose(lower @ lower.T, thin + ridge * torch.eye(F, dtype=torch.float64), atol=1e-12)
    assert solve.cholesky(torch.from_numpy(C))[1] == 0


@pytest.mark.parametrize("bad", [torch.full((3, 3), float("nan")), -torch.eye(3)])
def test_moments_that_are_none_are_refused(bad):
    with pytest.raises(UnstableUpdate):
        solve.cholesky(bad)


def test_near_identical_keys_stay_solvable():
    """Two edits of one subject with different relations have all but the same key."""
    twins = torch.from_numpy(np.stack([K[:, 0], K[:, 0] * (1 + 1e-9)], 1))
    for found in (solve.memit_factor(factor(), twins, 10.0), solve.emmet_factor(factor(), twins, 0.1)):
        assert found.isfinite().all()
        assert found.norm() < 1e3
