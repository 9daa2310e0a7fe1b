"""Processes that end when their parent ends, however it ended.

Linux can send a signal to a process when its parent dies (``PR_SET_PDEATHSIG``, prctl(2)). The new process has to ask
for it, before it loads the program. ``preexec_fn`` would run Python in a forked child, which is not safe with threads.
So a fresh interpreter asks and then becomes the program: same process id, about 15 ms. On other systems the program is
started directly. The signal also comes when the *thread* that started the process ends: start processes from a thread
that lives as long as they should.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
# The parent may have died before prctl, and then there is no signal: getppid shows it afterwards.
# Python ignores SIGPIPE and exec hands that on; a program expects the default.
_BECOME = f"""\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, int(sys.argv[2]), 0, 0, 0)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent process has ended")
try:
    os.execvp(sys.argv[3], sys.argv[3:])
except OSError as error:
    sys.exit(f"{{sys.argv[3]}}: {{error.strerror}}")
"""


def leashed(argv: Sequence[str], death_signal: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command line that runs ``argv`` and has it get ``death_signal`` when this process dies.

    If the program cannot be loaded, it prints a sentence on standard error and exits with code 1.
    """
    if sys.platform != "linux":
        return list(argv)
    # -I and -S: neither PYTHON* variables nor site-packages matter to a program of a few lines.
    return [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), str(int(death_signal)), *argv]
