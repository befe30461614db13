"""Everything that moves messages from a source through a map to a sink: zpipe, and what it is compared with, a file each."""
