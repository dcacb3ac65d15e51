"""Options for Iris's inference strategies."""

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import MedverseError
from ..inference.strategies import DEFAULT, STRATEGIES, make_strategy
from .options import positive

if TYPE_CHECKING:
    from ..inference.strategies import Strategy

#: which strategies an option is for
_FOR = {
    "reference": ("one-shot",),
    "best": ("image-retrieval", "object-retrieval"),
    "tuning_steps": ("tuning",),
    "memory": ("memory",),
    "embedding": ("stored",),
}


def add_strategy_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of strategy and what the strategies take."""
    listed = "; ".join(f"{name}: {text}" for name, text in STRATEGIES.items())
    group = parser.add_argument_group("Iris weights only")
    group.add_argument(
        "--strategy",
        choices=tuple(STRATEGIES),
        help=f"where task embeddings come from (default: {DEFAULT}). {listed}",
    )
    group.add_argument(
        "--reference", type=positive, metavar="N", help="one-shot: which pair (default: 1)"
    )
    group.add_argument(
        "--best", type=positive, metavar="K", help="retrieval: references averaged (default: 1)"
    )
    group.add_argument(
        "--tuning-steps", type=positive, metavar="N", help="tuning: steps (default: 40)"
    )
    group.add_argument(
        "--memory",
        metavar="1=NAME,2=NAME",
        help="memory: the class for each label value; 'weights info' lists the names",
    )
    group.add_argument(
        "--embedding", metavar="FILE", help="stored: the file; no --context is needed"
    )
    group.add_argument(
        "--save-embedding", metavar="FILE", help="also keep the embeddings used (.safetensors)"
    )


def strategy_of(options: argparse.Namespace) -> "Strategy | str | None":
    """Return the strategy the options ask for; None where they say nothing.

    Raises
    ------
    MedverseError
        An option does not belong to the strategy, or the strategy lacks one.
    """
    given = {name: getattr(options, name) for name in _FOR if getattr(options, name) is not None}
    name = options.strategy
    if name is None:
        # These two say by themselves what is meant.
        name = "stored" if "embedding" in given else "memory" if "memory" in given else None
    if name is None and not given and not options.save_embedding:
        return None
    name = name or DEFAULT
    for option in given:
        if name not in _FOR[option]:
            flag = option.replace("_", "-")
            raise MedverseError(f"--{flag} is for --strategy {' or '.join(_FOR[option])}.")
    if name == "memory" and "memory" not in given:
        raise MedverseError("--strategy memory needs --memory 1=NAME.")
    if name == "stored" and "embedding" not in given:
        raise MedverseError("--strategy stored needs --embedding FILE.")
    strategy = make_strategy(name, **_arguments(given))
    if not options.save_embedding:
        return strategy
    from ..inference.strategies import Keep

    return Keep(strategy, options.save_embedding)


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Rename options to what the strategies call them."""
    named = {"tuning_steps": "steps", "memory": "names", "embedding": "path"}
    arguments = {named.get(name, name): value for name, value in given.items()}
    if "reference" in arguments:
        arguments["reference"] -= 1
    return arguments
