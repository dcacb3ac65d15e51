"""The settings of the C library's allocator, in processes of their own: they last for good."""

import os
import platform
import subprocess
import sys

import pytest

from napari_medverse.allocation import SWITCH

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only the GNU C library has these settings"
)

# Page faults of an array in a thread, after one of the same size was freed there.
PROBE = """
import resource, threading
import napari_medverse
import numpy as np

def probe():
    np.ones(8 << 20, np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(8 << 20, np.float32)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=probe)
thread.start()
thread.join()
"""


def faults(**environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**inherited, "NUMPY_MADVISE_HUGEPAGE": "0", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_freed_memory_is_used_again_in_any_thread():
    assert faults() < 100


@pytest.mark.parametrize(
    "environment", [{SWITCH: "off"}, {"MALLOC_TRIM_THRESHOLD_": "1000000"}], ids=["switch", "user"]
)
def test_the_allocator_is_left_alone_where_it_is_asked_for(environment):
    pages = (8 << 20) * 4 // os.sysconf("SC_PAGE_SIZE")
    assert faults(**environment) > pages // 2


def test_free_memory_is_given_back():
    probe = """
import napari_medverse, numpy as np
from napari_medverse.allocation import give_back

def resident():
    return int(open("/proc/self/statm").read().split()[1])

# The small one lies above the large one, so that the heap cannot shrink from its end.
large, small = np.ones(8 << 20, np.float32), [bytes(600) for _ in range(2000)]
del large
held = resident()
give_back()
print(held - resident())
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert int(done.stdout) > (8 << 20) * 4 // os.sysconf("SC_PAGE_SIZE") // 2
