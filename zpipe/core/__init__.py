"""The core: pure. Bytes, events and `now` come in; actions and deadlines go out.

Nothing below this package knows of zmq, a clock, threads, files or logging. The daemon performs what the core asks for,
and a test runs a whole pipeline of cores on a virtual clock (`zpipe.testing`).
"""
