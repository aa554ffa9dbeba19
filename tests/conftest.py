"""Set-up shared by all tests: the CUDA simulator, and how many problems Hypothesis draws.

CNNCORE_TEST_GPU=1              run the CUDA backend on a real GPU (without it: in Numba's simulator)
CNNCORE_TEST_PROFILE=thorough   ten times as many problems, from a fresh seed every time
"""

import os
import signal

if os.environ.get("CNNCORE_TEST_GPU") != "1":
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # read once, when Numba is imported first

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait do not burn the cores that other tests need

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's `&`: children inherit it, and some are sent Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

from hypothesis import HealthCheck, Phase, settings

COMMON = {
    "deadline": None,
    "database": None,
    "phases": [Phase.explicit, Phase.generate, Phase.shrink],
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much],
}
settings.register_profile("ci", max_examples=25, derandomize=True, **COMMON)
settings.register_profile("thorough", max_examples=250, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("CNNCORE_TEST_PROFILE", "ci"))
