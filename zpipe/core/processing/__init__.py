"""From the queue through the workers to the outputs: tasks, batches, retries, dead letters, and how time is spent on them."""
