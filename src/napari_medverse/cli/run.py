"""Loading a model and predicting with a line of progress."""

import argparse
from typing import TYPE_CHECKING, Any

from .options import ProgressLine

if TYPE_CHECKING:
    from ..inference import ContextPair, Prediction, Volume


def predict_with_progress(
    options: argparse.Namespace, target: "Volume", pairs: list["ContextPair"], **settings: Any
) -> "Prediction":
    """Predict as the command line's options for model and alignment say.

    Raises
    ------
    MedverseError
        The weights, the pairs or the settings cannot be used.
    """
    from ..inference import predict
    from ..weights import load_model

    line = ProgressLine()
    try:
        line.show(f"loading {options.model}")
        model = load_model(options.model, options.device, options.precision)
        return predict(
            model,
            target,
            pairs,
            align=options.align,
            prior=options.prior,
            progress=lambda done, windows, message: line.show(message),
            **settings,
        )
    finally:
        line.clear()
