"""What `zpipe run` and `zpipe drain` show while they work and when they are done."""
