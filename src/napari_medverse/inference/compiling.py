"""Networks compiled by torch; on a GPU their kernels are recorded and replayed as CUDA graphs."""

from collections.abc import Callable

import torch
from torch import Tensor

#: the parts of every network of ours that take and give maps
_PARTS = ("target_encoder", "context_unet", "target_decoder")


def compile_parts(
    network: torch.nn.Module, device: str | torch.device, backend: str | Callable = "inductor"
) -> None:
    """Compile a network's U-Nets in place; each is traced when it first meets a window's shape.

    Parameters
    ----------
    network
        Medverse or Neuroverse3D; one that is compiled already is left alone.
    device
        Where it runs.
    backend
        See `torch.compile`; "eager" traces only, which shows on any machine that it can be done.
    """
    graphs = torch.device(device).type == "cuda" and backend == "inductor"
    for name in _PARTS:
        part = getattr(network, name, None)
        if part is None or "forward" in vars(part):
            continue
        mode = "reduce-overhead" if graphs else None
        compiled = torch.compile(part.forward, backend=backend, mode=mode)
        part.forward = _keeping(compiled) if graphs else compiled


def _keeping(run: Callable) -> Callable:
    """Copy what a CUDA graph gives: its next replay writes over it, and we keep features."""

    def keeping(*maps, **options):
        torch.compiler.cudagraph_mark_step_begin()
        return _copied(run(*maps, **options))

    return keeping


def _copied(output):
    if isinstance(output, Tensor):
        return output.clone()
    return type(output)(_copied(part) for part in output)
