"""Worker pools: where a stage's plugin is called, in threads, on an event loop, or in processes of their own."""
