"""The loop behind `adapt`: align, measure, train by the clock, keep the best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from napari_medverse.errors import MedverseError
from napari_medverse.inference import CancelToken, ContextPair
from napari_medverse.inference.alignment import AlignmentCache
from napari_medverse.inference.cache import FeatureCache
from napari_medverse.inference.engine import Engine
from napari_medverse.inference.kept_looks import KeptLooks
from napari_medverse.inference.looks_learning import learn
from napari_medverse.inference.placing import intensity, place_target
from napari_medverse.inference.sources import PlacedPair
from napari_medverse.inference.voting import any_alike
from napari_medverse.paths import cache_folder
from napari_medverse.training import losses, prior
from napari_medverse.training.augment import augment_pair
from napari_medverse.training.config import AugmentationSettings
from napari_medverse.training.held_out import (
    Scores,
    coarse_dice,
    hold_out,
    leave_one_out_dice,
)
from napari_medverse.training.leave_one_out import Fold, Window
from napari_medverse.training.state import Average, parameter_groups
from napari_medverse.weights.loading import Model

# The supplement's augmentation without what would undo the alignment of a context.
_AUGMENTATION = AugmentationSettings(
    flip=0, rotation=0, inversion=0, random_modality=0, affine=0.1, elastic=0.2
)
# Shares of the time: after the first no more targets are aligned, scores take the second at most.
_ALIGNING, _SCORING = 0.3, 0.25
# The time that a score takes varies; this keeps the last one within the minutes.
_CAUTION = 1.3
_WARM_UP = 5
_LAST_RATE = 0.05
_CLIP = 1.0
# What a logit is set to where the loss must not look: background for certain.
_NOTHING = -30.0


@dataclass(frozen=True, slots=True)
class AdaptSettings:
    """How to adapt.

    Attributes
    ----------
    minutes
        Time for everything: alignment, training and scores.
    steps
        Train for this many steps instead of by the clock; the result is then the same every time.
    classes
        Label values to adapt to; None takes every value in the pairs.
    align
        As in `predict`.
    seed
        Of episodes, augmentation and held-out boxes.
    lr
        Peak learning rate (AdamW; a short warm-up, then half a cosine).
    tasks
        Windows in a step.
    finest
        Share of windows without a vote at full resolution.
    alone
        Share of windows without a vote, half of them with contexts that are not registered: what
        never works without, forgets how.
    contexts
        Most context pairs in an episode.
    boxes
        Held-out boxes over all targets.
    scores
        Most scores taken on the way.
    patience
        Stop when this many scores in a row bring nothing better.
    ema
        Decay of the running average of the weights.
    share
        How far from the unadapted weights to that average lies what is measured and kept. Halfway
        generalises better than either end: weights trained on so few scans forget (Wortsman et al.
        2022, "Robust fine-tuning of zero-shot models").

    Raises
    ------
    MedverseError
        The minutes are not a number above 0.
    """

    minutes: float = 5.0
    steps: int | None = None
    classes: tuple[int, ...] | None = None
    align: str = "auto"
    seed: int = 0
    lr: float = 1.5e-4
    tasks: int = 4
    finest: float = 0.5
    alone: float = 0.5
    contexts: int = 3
    boxes: int = 6
    scores: int = 3
    patience: int = 3
    ema: float = 0.9
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise MedverseError(f"minutes must be a number above 0, got {self.minutes}")


@dataclass(frozen=True, slots=True)
class AdaptProgress:
    """How far it is: 0 to 1, in words, and mean Dice of the unadapted and of the best weights."""

    fraction: float
    text: str
    before: float | None = None
    best: float | None = None

    def describe(self) -> str:
        """Say it in a line."""
        if self.before is None:
            return self.text
        return f"{self.text}, held-out Dice {self.best:.3f} (unadapted: {self.before:.3f})"


class AdaptLoop:
    """One adaptation; `run` leaves its outcome in the attributes.

    Attributes
    ----------
    best
        State dict of the weights to keep, float32 on the CPU.
    best_step
        Steps behind them; 0 for the unadapted weights.
    before, after
        Leave-one-out scores, unadapted and of `best`.
    looks
        What was learnt of the structures' looks beside the network; None where there is one pair.
    """

    def __init__(
        self,
        model: Model,
        pairs: list[ContextPair],
        classes: tuple[int, ...],
        settings: AdaptSettings,
        report: Callable[[AdaptProgress], None] | None,
        cancel: CancelToken | None,
        clock: Callable[[], float],
    ) -> None:
        self.model, self.pairs, self.classes, self.settings = model, pairs, classes, settings
        self._report, self._cancel, self._clock = report, cancel, clock
        self._started = clock()
        self._rng = np.random.default_rng([settings.seed, 5])
        self._step = 0
        self.best: dict[str, Tensor] = {}
        self.best_step = 0
        self.before = self.after = Scores({}, {})
        self.looks: KeptLooks | None = None

    def run(self) -> None:
        """Do all the work.

        Raises
        ------
        Cancelled
            The token was set.
        """
        settings = self.settings
        torch.manual_seed(settings.seed)
        self._say("reading the pairs")
        self._engine = Engine.of(self.model)
        self._network = self._engine.network
        self._folds = self._align()
        self.looks = self._learn_looks()
        boxes = max(settings.boxes, len(self.classes) // 2)
        hold_out(self._rng, self._folds, self.classes, boxes)
        for name, parameter in self._network.named_parameters():
            parameter.requires_grad_("pos_embed" not in name)
        self._optimizer = torch.optim.AdamW(parameter_groups(self._network, 1e-4))
        self._unadapted = Average(self._network, settings.ema)
        self._average = Average(self._network, settings.ema)
        asked = self._clock()
        self.before = self.after = self._score()
        self.best = self._state()
        self._train(seconds_score=_CAUTION * (self._clock() - asked))

    # ---- what there is to learn from

    def _align(self) -> list[Fold]:
        """Align the others to each pair in turn, for as many targets as the time allows."""
        cache = FeatureCache()
        cache.alignments = AlignmentCache(cache_folder("alignments"))
        folds: list[Fold] = []
        for number in self._rng.permutation(len(self.pairs)):
            if len(folds) >= 2 and self._time_used() > _ALIGNING:
                break
            self._say(f"aligning the others to pair {len(folds) + 1} of {len(self.pairs)}")
            target = self.pairs[number]
            others = [pair for pair in self.pairs if pair is not target]
            if len(others) > self.settings.contexts:
                chosen = self._rng.choice(len(others), self.settings.contexts, replace=False)
                others = [others[i] for i in np.sort(chosen)]
            folds.append(
                Fold.align(self._engine, target, others, self.settings.align, cache, self._cancel)
            )
        return folds

    def _learn_looks(self) -> KeptLooks | None:
        """Learn looks from some of the pairs."""
        self._say("learning what the structures look like")
        rng = np.random.default_rng([self.settings.seed, 6])
        pairs = [self.pairs[i] for i in rng.permutation(len(self.pairs))]
        config = self._engine.config
        images = [place_target(pair.image, intensity(pair.image, config, None)) for pair in pairs]
        return learn(pairs, images, self.classes, self._check_cancel)

    def _window(self) -> Window:
        """Draw an episode and augment its contexts; the prior is tied to the target's place."""
        rng = self._rng
        fold = self._folds[int(rng.integers(len(self._folds)))]
        able = [value for value in self.classes if value in fold.pair.classes] or self.classes
        value = int(rng.choice(able))
        alone = rng.random() < self.settings.alone
        loose = alone and rng.random() < 0.5
        pairs = fold.context(rng, value, self.settings.contexts, loose)
        if alone or not any_alike(pairs):
            window = self._without_vote(fold, value, pairs)
        else:
            # Where there is a vote, what coarser levels predict is for the eye only.
            place = fold.place(rng, value)
            window = fold.window(value, pairs, place, len(fold.plan), self._cancel)
        return window.with_contexts(
            augment_pair(rng, image.numpy(), label.numpy(), _AUGMENTATION)
            for image, label in window.contexts
        )

    def _without_vote(self, fold: Fold, value: int, pairs: list[PlacedPair]) -> Window:
        """Return a window of any level, above the first with a poor prediction of the one before.

        That is the truth made worse: predicting the levels before would cost several times as much,
        and gained nothing.
        """
        rng, number = self._rng, len(fold.plan)
        if number > 1 and rng.random() >= self.settings.finest:
            number = int(rng.integers(1, number))
        place = fold.place(rng, value)
        window = fold.window(value, pairs, place, number, self._cancel, guided=False)
        if number == 1:
            return window
        label = prior.degraded(rng, window.truth.numpy())
        return window.with_coarse(prior.coarse_image(window.image.numpy()), label)

    # ---- training

    def _train(self, seconds_score: float) -> None:
        settings = self.settings
        budget = settings.minutes * 60
        count = int(np.clip(_SCORING * budget / max(seconds_score, 1e-3), 1, settings.scores))
        due = [(n + 1) / count for n in range(count)]
        left = budget - (self._clock() - self._started) - seconds_score * count
        # Where all went into alignment and scores, one step is taken all the same.
        span = max(left, 1e-3)
        spent = slowest = 0.0
        without = 0
        while due:
            begun = self._clock()
            self._learn(self._step / settings.steps if settings.steps else spent / span)
            took = self._clock() - begun
            spent, slowest = spent + took, max(slowest, took)
            # The last step must end within the time.
            share = (spent + slowest) / span
            if settings.steps:
                share = self._step / settings.steps
            if share >= due[0]:
                due = [later for later in due if later > share]
                without = 0 if self._check() else without + 1
                if without >= settings.patience:
                    return

    def _learn(self, share: float) -> None:
        """Take one optimiser step, ``share`` of the way through."""
        settings = self.settings
        fall = 0.5 * (1 + np.cos(np.pi * min(share, 1.0)))
        rate = settings.lr * (_LAST_RATE + (1 - _LAST_RATE) * fall)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self._step + 1) / _WARM_UP)
        for _ in range(settings.tasks):
            self._say(f"training, step {self._step + 1}")
            window = self._window()
            self._check_cancel()
            loss = self._loss(window) / settings.tasks
            self._check_cancel()
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), _CLIP)
        if torch.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._average.update(self._network, self._step)
        self._step += 1

    def _loss(self, window: Window) -> Tensor:
        """Return the loss over what is not held out."""
        network, device = self._network, torch.device(self.model.device)
        images, labels = zip(*window.contexts, strict=True)
        pair = (window.ar_image, window.ar_label)
        options = {"logits": True} if network.residual else {}
        with torch.autocast(device.type, torch.bfloat16, enabled=self._engine.precision == "fast"):
            out = network(
                window.image[None, None].to(device),
                torch.stack(images)[None, :, None].to(device),
                torch.stack(labels)[None, :, None].to(device),
                *(None if x is None else x[None, None, None].to(device) for x in pair),
                mini_context=len(images),
                **options,
            ).float()
        held = ~window.counts[None, None].to(device)
        truth = window.truth[None, None].to(device).masked_fill(held, 0)
        if network.residual:
            return losses.dice_bce(out.masked_fill(held, _NOTHING), truth).mean()
        return losses.modified_smooth_l1(out.masked_fill(held, 0), truth).mean()

    # ---- measuring

    def _score(self) -> Scores:
        self._say("measuring on held-out parts")
        asked = self._folds, self.classes, self.settings.contexts, self._cancel
        return Scores(leave_one_out_dice(*asked), coarse_dice(*asked))

    def _check(self) -> bool:
        """Measure the weights that would be kept now; keep them if they are the best so far."""
        candidate = self._unadapted.towards(self._average, self.settings.share)
        candidate.swap(self._network)
        try:
            found = self._score()
            better = found.worth(self.before) > self.after.worth(self.before)
            if better:
                self.after, self.best_step, self.best = found, self._step, self._state()
        finally:
            candidate.swap(self._network)
        return better

    def _state(self) -> dict[str, Tensor]:
        state = self._network.state_dict()
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    # ---- telling

    def _time_used(self) -> float:
        return (self._clock() - self._started) / (60 * self.settings.minutes)

    def _say(self, text: str) -> None:
        self._check_cancel()
        if self._report is None:
            return
        steps = self.settings.steps
        share = self._step / steps if steps else self._time_used()
        before, best = (
            fmean(found.usual.values()) if found.usual else None
            for found in (self.before, self.after)
        )
        self._report(AdaptProgress(min(share, 1.0), text, before, best))

    def _check_cancel(self) -> None:
        if self._cancel is not None:
            self._cancel.check()
