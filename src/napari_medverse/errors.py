"""Exceptions whose text is written for the person at the screen."""


class MedverseError(ValueError):
    """Input that cannot be used; the message names the layer or file and the remedy."""


class CheckpointError(MedverseError):
    """A checkpoint that is damaged, unsafe, or made for another network."""


class Cancelled(Exception):
    """Work was stopped because its cancel token was set; nothing is wrong."""
