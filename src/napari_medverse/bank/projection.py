"""A bank's embeddings in the plane, as figure 5 of the Iris paper shows them."""

from __future__ import annotations

import numpy as np

METHODS = ("pca", "tsne")
#: t-SNE takes minutes beyond; a random part looks the same
MOST = 3000


def project(vectors: np.ndarray, method: str = "pca", seed: int = 0) -> np.ndarray:
    """Place vectors in the plane so that like ones lie close.

    Parameters
    ----------
    vectors
        (rows, n).
    method
        "pca" (fast, keeps distances roughly) or "tsne" (slow, keeps neighbours).
    seed
        For t-SNE.

    Returns
    -------
    ndarray
        (rows, 2) float32.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, not {method!r}")
    rows, width = vectors.shape
    if rows < 3 or width < 2:
        plane = np.zeros((rows, 2), np.float32)
        plane[:, 0] = np.arange(rows)
        return plane
    from sklearn.decomposition import PCA

    if method == "pca" or rows < 5:
        return PCA(2, svd_solver="full").fit_transform(vectors).astype(np.float32)
    from sklearn.manifold import TSNE

    tsne = TSNE(
        perplexity=min(30, (rows - 1) / 3), init="pca", metric="cosine", random_state=seed, n_jobs=1
    )
    return tsne.fit_transform(vectors).astype(np.float32)


def part_of(rows: int, most: int = MOST, seed: int = 0) -> np.ndarray:
    """Return the indices of at most so many rows, drawn at random, ascending."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
