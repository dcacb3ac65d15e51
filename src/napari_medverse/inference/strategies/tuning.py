"""In-context tuning: gradient descent on the embeddings, the network frozen."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import MedverseError
from ...paths import cache_folder
from .averaging import ContextEnsemble
from .base import Chosen, Desk
from .files import read_embeddings, write_embeddings


@dataclass(frozen=True)
class InContextTuning:
    """Embeddings tuned on the context pairs themselves (section 3.3).

    Starts at their mean; every step segments one pair with the embeddings and lowers Dice plus
    cross-entropy. What was tuned is kept in the cache folder and reused for any target, until
    a pair, the classes, the weights or these settings change.

    Parameters
    ----------
    steps
        Steps of Adam; the pairs take turns.
    rate
        Learning rate.
    keep
        Whether to look for kept embeddings and to keep new ones.
    """

    name: ClassVar[str] = "tuning"
    steps: int = 40
    rate: float = 0.02
    keep: bool = True

    def embeddings(self, desk: Desk) -> Chosen:
        if not desk.pairs:
            raise MedverseError("tuning needs context pairs to tune on; add some")
        path = self._path(desk) if self.keep else None
        if path is not None and path.is_file():
            return read_embeddings(path, desk.model, desk.classes)
        start = ContextEnsemble().embeddings(desk)
        tuned, losses = self._tune(desk, start.embeddings)
        chosen = Chosen(tuned, start.references, tuple(losses))
        if path is not None:
            write_embeddings(path, chosen, desk.model, desk.classes, self.name)
        return chosen

    def _tune(self, desk: Desk, start: Tensor) -> tuple[Tensor, list[float]]:
        from ...training.losses import dice_bce

        # A copy: what inference made cannot take gradients.
        embeddings = start.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([embeddings], lr=self.rate)
        examples = [desk.example(pair) for pair in desk.pairs]
        examples = [e for e in examples if e[2]]
        losses: list[float] = []
        for step in range(self.steps):
            desk.check()
            text = f", loss {losses[-1]:.3f}" if losses else ""
            desk.say(step, self.steps, f"tuning, step {step + 1} of {self.steps}{text}")
            features, masks, positions = examples[step % len(examples)]
            with torch.enable_grad():
                logits = desk.decode(features, embeddings[positions])
                loss = dice_bce(logits.unsqueeze(1), masks[0].unsqueeze(1)).mean()
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return embeddings.detach(), losses

    def _path(self, desk: Desk) -> Path:
        """Return where the result is kept, named by all that reaches it."""
        told = [
            desk.model.fingerprint,
            desk.classes,
            [(*p.key, p.image.affine.tolist()) for p in desk.pairs],
            (self.steps, self.rate),
        ]
        digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        return cache_folder("tuned") / f"{digest}.safetensors"
