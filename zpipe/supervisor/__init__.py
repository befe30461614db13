"""`zpipe run`: every stage as a child process, until the sources have ended and everything is acked."""
