"""Links that do not run over ZeroMQ, as a daemon has them: what makes them, and what carries out what they ask for."""
