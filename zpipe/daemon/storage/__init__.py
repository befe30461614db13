"""What outlives the process of an instance: its position, its dead letters, and the notes of what it was doing."""
