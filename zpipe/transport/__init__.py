"""Every ZeroMQ socket of zpipe. Only this room imports zmq; nothing here knows what a frame means."""
