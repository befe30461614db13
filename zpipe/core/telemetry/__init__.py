"""What a stage says of itself: snapshots, and copies of messages that pass for whoever taps it."""
