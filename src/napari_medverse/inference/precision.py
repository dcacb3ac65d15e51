"""Exact and fast arithmetic, and which of the two pays on this machine.

A third way, "plain", is the yardstick of the benchmarks: fp32, default memory format, every
operation in its textbook form. It gives the same numbers as "exact" up to rounding.
"""

import contextlib
import json
import platform
import time
from collections.abc import Iterator

import torch

from ..networks.plain import plain_operations
from ..paths import cache_path

PRECISIONS = ("exact", "fast")

_GAIN = 1.15
_PROBE_SIDE = 48
_PROBE_SECONDS = 0.5


@contextlib.contextmanager
def computing(
    precision: str, device: str | torch.device, gradients: bool = False
) -> Iterator[None]:
    """Run network code in fp32 ("exact", "plain") or bf16 autocast ("fast").

    ``gradients`` leaves torch's gradient mode as it is; by default none are recorded.
    """
    kind = torch.device(device).type
    with contextlib.ExitStack() as stack:
        if not gradients:
            stack.enter_context(torch.inference_mode())
        if precision == "fast":
            stack.enter_context(torch.autocast(kind, dtype=_fast_dtype(kind)))
        if precision == "plain":
            stack.enter_context(plain_operations())
        if precision != "fast" and kind == "cuda":
            # Else convolutions round their inputs to 10 bits (TF32).
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        yield


def prepare(
    network: torch.nn.Module, device: str | torch.device, precision: str = "auto"
) -> torch.nn.Module:
    """Bring a network to its device, channels last in memory but for "plain", ready to predict."""
    layout = torch.contiguous_format if precision == "plain" else torch.channels_last_3d
    return network.to(device=device, memory_format=layout).eval()


def resolve(precision: str, network: torch.nn.Module, device: str | torch.device) -> str:
    """Return "exact" or "fast"; "auto" asks `probe`, whose answer is kept in the cache folder.

    Parameters
    ----------
    precision
        "exact", "fast", "plain" or "auto".
    network
        Ready on its device; only its target encoder is run.
    """
    if precision != "auto":
        return precision
    key = _machine(network, device)
    path = cache_path("precision.json")
    known = _read(path)
    if known.get(key) not in PRECISIONS:
        known[key] = probe(network, device)
        # An answer that cannot be kept only costs a second the next time.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            partial.write_text(json.dumps(known, indent=1))
            partial.replace(path)
    return known[key]


def probe(network: torch.nn.Module, device: str | torch.device) -> str:
    """Time the target encoder both ways for about a second and return what pays."""
    side = max(network.divisor, _PROBE_SIDE // network.divisor * network.divisor)
    target = torch.rand(1, 1, side, side, side, device=device)
    seconds = {}
    for precision in PRECISIONS:
        try:
            seconds[precision] = _fastest_run(network, target, precision, device)
        except RuntimeError:
            # bf16 is not implemented for every operation on every device.
            seconds[precision] = float("inf")
    return "fast" if seconds["fast"] * _GAIN < seconds["exact"] else "exact"


def _fastest_run(network, target: torch.Tensor, precision: str, device) -> float:
    best, started, runs = float("inf"), time.perf_counter(), 0
    while runs < 2 or (time.perf_counter() - started < _PROBE_SECONDS and runs < 20):
        before = time.perf_counter()
        with computing(precision, device):
            network.encode_target(target)
            if target.is_cuda:
                torch.cuda.synchronize()
        best, runs = min(best, time.perf_counter() - before), runs + 1
    return best


def _machine(network: torch.nn.Module, device: str | torch.device) -> str:
    widths = [tuple(p.shape) for p in network.parameters()][:4]
    kind = torch.device(device).type
    name = torch.cuda.get_device_name() if kind == "cuda" else platform.processor()
    return f"{platform.machine()} {name} {kind} torch {torch.__version__} {widths}"


def _fast_dtype(kind: str) -> torch.dtype:
    return torch.float16 if kind == "mps" else torch.bfloat16


def _read(path) -> dict:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
