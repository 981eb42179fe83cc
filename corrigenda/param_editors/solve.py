"""The linear algebra of the updates, in float64.

Shapes: n edits, f width of a key, d width of a value. Keys are columns of K (f, n), residuals columns of R (d, n); C is
the mean of k·kᵀ over text. All solutions are of the form Δ = R·X with X (n, f): that factor X is what the functions
return, so every update has the rank of its edits.
"""

from __future__ import annotations

import torch

from corrigenda.errors import UnstableUpdate


def cholesky(moment: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the lower Cholesky factor of a second moment, and what had to be added to its diagonal (0 or more).

    With fewer tokens than d_in the matrix is singular; then the smallest power of ten, relative to the mean of the
    diagonal, that makes it regular is added.

    Raises:
        UnstableUpdate: Not finite, or regular at no ridge below 1 %.
    """
    matrix = moment.double()
    if not bool(matrix.isfinite().all()):
        raise UnstableUpdate("the second moments hold NaN or infinity", remedy="Collect them again.")
    scale = float(matrix.diagonal().mean())
    for exponent in (None, -10, -9, -8, -7, -6, -5, -4, -3, -2):
        ridge = 0.0 if exponent is None else scale * 10.0**exponent
        factor, info = torch.linalg.cholesky_ex(matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype))
        # A factor whose smallest pivot is rounding noise solves to noise.
        if int(info) == 0 and float(factor.diagonal().min()) ** 2 > 1e-12 * scale:
            return factor, ridge
    raise UnstableUpdate("the second moments are not positive definite", remedy="Collect more text.")


def rome_direction(factor: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return u = C⁻¹k / ‖C⁻¹k‖, (f,); ``factor`` is the Cholesky factor of C."""
    u = torch.cholesky_solve(key.double()[:, None], factor)[:, 0]
    unit: torch.Tensor = u / u.norm()
    return unit


def memit_factor(factor: torch.Tensor, keys: torch.Tensor, weight: float) -> torch.Tensor:
    """Return X = Kᵀ(λC + KKᵀ)⁻¹, (n, f), by the Woodbury identity: X = (λI + KᵀC⁻¹K)⁻¹ KᵀC⁻¹.

    Args:
        factor: Cholesky factor of C, (f, f).
        keys: K, (f, n).
        weight: λ, how many old keys the mean C stands for.
    """
    keys = keys.double()
    spread = torch.cholesky_solve(keys, factor)  # C⁻¹K, (f, n)
    inner = keys.T @ spread
    factors: torch.Tensor = torch.linalg.solve(inner + weight * torch.eye(len(inner), dtype=inner.dtype), spread.T)
    return factors


def memit_factor_direct(moment: torch.Tensor, keys: torch.Tensor, weight: float) -> torch.Tensor:
    """Return X = Kᵀ(λC + KKᵀ)⁻¹, (n, f), from the f×f normal equations: cheaper when there are more edits than f."""
    keys = keys.double()
    factors: torch.Tensor = torch.linalg.solve(weight * moment.double() + keys @ keys.T, keys)
    return factors.T


def emmet_factor(factor: torch.Tensor, keys: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return X = (KᵀC⁻¹K + αI)⁻¹ KᵀC⁻¹, (n, f): equality-constrained up to the ridge α (EMMET)."""
    return memit_factor(factor, keys, ridge)


def null_space(moment: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return an orthonormal basis U (f, p) of the directions in which C is below ``threshold``."""
    values, vectors = torch.linalg.eigh(moment.double())
    basis: torch.Tensor = vectors[:, values < threshold]
    return basis


def alphaedit_factor(
    basis: torch.Tensor, keys: torch.Tensor, earlier: torch.Tensor | None, ridge: float
) -> torch.Tensor:
    """Return X (n, f) with Δ = R·X solving AlphaEdit's Δ(P(KKᵀ + K_pK_pᵀ) + L2·I) = R·Kᵀ·P, with P = UUᵀ.

    Δ lies in the null space, Δ = Y·Uᵀ, so the system is one of p unknowns a row, and of as many as there are keys:
    with M = Uᵀ[K, K_p], Y = R·K̃ᵀ(L2·I + MMᵀ)⁻¹.

    Args:
        basis: U, (f, p).
        keys: K, (f, n).
        earlier: K_p, (f, m), the keys of earlier edits in the chain.
        ridge: L2.
    """
    inside = basis.T @ keys.double()  # K̃ (p, n)
    every = inside if earlier is None else torch.cat([inside, basis.T @ earlier.double()], 1)  # M (p, n + m)
    small = every.T @ every + ridge * torch.eye(every.shape[1], dtype=every.dtype)
    # Woodbury: (L2·I + MMᵀ)⁻¹K̃ = (K̃ − M(L2·I + MᵀM)⁻¹MᵀK̃) / L2
    solved = (inside - every @ torch.linalg.solve(small, every.T @ inside)) / ridge
    factors: torch.Tensor = solved.T @ basis.T
    return factors
