"""What the snapshots of many instances say about their pipeline, and how that looks in a terminal and to other programs.

Must not live here: sockets. The commands bring the snapshots.
"""
