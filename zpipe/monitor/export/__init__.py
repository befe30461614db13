"""The model for other programs: metrics, checks for cron, and recordings."""
