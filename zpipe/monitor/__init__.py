"""What the snapshots of many instances say of the pipeline.

May live here: values made of snapshots, and how they look in a terminal. Nothing here opens a socket or a file: the
commands bring the snapshots.
"""
