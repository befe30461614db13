"""Being a good service: systemd, status, health, and a log that nobody can flood."""
