"""`exec`: a stage in any language without the protocol, as a program that reads and writes lines."""
