"""The skeleton both context networks share: validation and APSP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import MedverseError
from .features import ContextFeatures, TargetFeatures


class ContextNetwork(nn.Module):
    """A target U-Net guided by context pairs through a shared context U-Net.

    Sub-classes give ``encode_target``, ``encode_context`` and ``decode``; this class
    runs them over any number of pairs with adaptive parallel-sequential processing
    (APSP; Neuroverse3D, section 3.1).
    """

    #: every side of the input must be a multiple of this number of voxels
    divisor: int

    def encode_target(self, target: Tensor) -> TargetFeatures:
        raise TypeError(f"{type(self).__name__} does not define encode_target")

    def encode_context(
        self,
        image: Tensor,
        label: Tensor,
        target: TargetFeatures,
        *,
        autoregressive: bool = False,
        task: str = "labels",
        image_maps: tuple[Tensor, ...] = (),
    ) -> ContextFeatures:
        raise TypeError(f"{type(self).__name__} does not define encode_context")

    def encode_images(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return what ``encode_context`` can share between labels of the same images."""
        return ()

    def decode(self, target: TargetFeatures, semantic, autoregressive=None, **options) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not define decode")

    def encode_contexts(
        self,
        images: Tensor,
        labels: Tensor,
        target: TargetFeatures,
        mini_context: int = 3,
        shuffle: bool = False,
        task: str = "labels",
    ) -> ContextFeatures:
        """Average the context features of all pairs, ``mini_context`` pairs at a time.

        While gradients are recorded only the last group keeps its graph; its gradient is
        multiplied by the number of groups, so that its expectation over shuffled groups
        equals the full gradient (Neuroverse3D, equation 2 and supplement A.1).

        Parameters
        ----------
        images, labels
            (B, L, 1, D, H, W) float.
        mini_context
            Pairs per group; memory grows with it, the result does not change.
        shuffle
            Draw the group order from torch's global generator (training only).
        task
            "labels" or "image", what the pairs are.
        """
        if mini_context < 1:
            raise MedverseError(f"mini_context must be at least 1, not {mini_context}.")
        groups = list(
            zip(images.split(mini_context, 1), labels.split(mini_context, 1), strict=True)
        )
        if shuffle:
            groups = [groups[i] for i in torch.randperm(len(groups)).tolist()]

        mean: ContextFeatures | None = None
        for image, label in groups[:-1]:
            with torch.no_grad():
                features = self.encode_context(image, label, target, task=task)
                mean = features if mean is None else mean.merge(features, in_place=True)
                del features
        last = self.encode_context(*groups[-1], target, task=task)
        if mean is None:
            return last
        if torch.is_grad_enabled():
            last = last.scale_gradient(len(groups))
        return mean.merge(last, in_place=not torch.is_grad_enabled())

    def check_input(self, target: Tensor, *others: tuple[str, Tensor | None]) -> None:
        """Raise MedverseError where shapes do not fit the network or each other."""
        if target.ndim != 5 or target.shape[1] != 1:
            raise MedverseError(f"The target must be (B, 1, D, H, W), not {tuple(target.shape)}.")
        grid = target.shape[-3:]
        if any(side % self.divisor for side in grid):
            raise MedverseError(
                f"Every side of a {type(self).__name__} window must be a multiple of "
                f"{self.divisor} voxels; this one is {tuple(grid)}."
            )
        for name, tensor in others:
            if tensor is None:
                continue
            fits = tensor.ndim == 6 and tensor.shape[0] == target.shape[0] and tensor.shape[2] == 1
            if not fits or tensor.shape[-3:] != grid:
                raise MedverseError(
                    f"The {name} must be (B, L, 1, D, H, W) on the target's grid "
                    f"{tuple(target.shape)}, not {tuple(tensor.shape)}."
                )
