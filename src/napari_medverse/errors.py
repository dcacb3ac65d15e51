"""Exceptions whose text is written for the person at the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class MedverseError(ValueError):
    """Input that cannot be used; the message names the layer or file and the remedy."""


class CheckpointError(MedverseError):
    """A checkpoint that is damaged, unsafe, or made for another network."""


class Cancelled(Exception):
    """Work was stopped because its cancel token was set; nothing is wrong."""


def first_reason(error: ValidationError) -> str:
    """Return the first thing that pydantic found wrong: "pairs.0.name: Field required"."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]
