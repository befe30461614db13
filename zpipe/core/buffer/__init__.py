"""A link's disk buffer without the disk: the bytes of its files, and which messages in them are owed to whom."""
