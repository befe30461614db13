"""What snapshots say about a pipeline, in a terminal and to other programs. Must not live here: sockets; the commands bring
snapshots."""
