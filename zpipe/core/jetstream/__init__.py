"""Links through JetStream, pure: what is published and asked for, and what becomes of it."""
