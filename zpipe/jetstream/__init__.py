"""Links through a NATS cluster: the only room that imports nats, and only while one is in use."""
