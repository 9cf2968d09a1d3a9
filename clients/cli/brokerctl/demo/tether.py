"""Runs a command that ends when its parent does, however that one ends.

`python -m brokerctl.demo.tether PARENT_PID COMMAND ...` asks the kernel for SIGTERM at the parent's
death (prctl(2), PR_SET_PDEATHSIG; kept across execve) and becomes the command. This is done in the
child, after the fork, by a program of its own, because code between fork and exec of a process with
threads may deadlock. Where the kernel has no prctl the command runs untethered: stopping it in
order does not depend on this.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ties this process to its parent and becomes the command."""
    parent_pid, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        # The parent may have died before the kernel was told; then nobody sends the signal.
        if os.getppid() != int(parent_pid):
            sys.exit("tether: the parent has already ended")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
