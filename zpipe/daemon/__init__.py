"""The daemon: the one shell around the core, and all side effects. It performs what the core asks for and reports back."""
