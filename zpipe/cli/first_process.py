"""A command that is PID 1 of a container: the work is done by a child, and this process does what the kernel leaves to PID 1.

Nobody else would reap the orphans of plugins there, and the kernel drops each signal that PID 1 has no handler for: a command
that relies on the default action could not be stopped. (`docker run --init` does the same; Kubernetes has nothing like it.) Does
not belong here: what a command does on a signal.
"""

from __future__ import annotations

import os
import signal

_PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_FROM_TERMINAL = 0x80
"""SI_KERNEL of sigaction(2): Ctrl-C in a terminal. The child has received it too, since it is in the same process group."""


def stay_behind() -> None:
    """Forks. Returns in the child, which does the command; this process exits as the child does, with 128 and the number of the
    signal that killed it. To be called before any thread is started. What still runs then is killed by the kernel."""
    watched = {*_PASSED_ON, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    while True:
        received = signal.sigwaitinfo(watched)
        if received.si_signo != signal.SIGCHLD:
            if received.si_code != _FROM_TERMINAL:
                os.kill(child, received.si_signo)
        elif (code := _reap(child)) is not None:
            os._exit(code if code >= 0 else 128 - code)


def _reap(child: int) -> int | None:
    """Reaps all that have ended. Returns the exit code of the child if it is one of them, negative for a signal."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
