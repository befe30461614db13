"""The way from other threads to the loop."""

from __future__ import annotations

import os

from zpipe.daemon.mailbox import Mailbox


def test_a_loop_that_sleeps_is_woken_once_however_much_is_posted() -> None:
    mailbox, made = Mailbox(), []
    mailbox.asleep = True
    for number in range(3):
        mailbox.post(lambda number=number: made.append(number))
    assert os.eventfd_read(mailbox.wakeup.fd) == 1, "each write to the descriptor is a system call"
    mailbox.post(lambda: made.append(3))
    mailbox.run()
    assert made == [0, 1, 2, 3]
    mailbox.asleep = True
    mailbox.wake()
    assert os.eventfd_read(mailbox.wakeup.fd) == 1, "asleep again"
    mailbox.wakeup.close()
