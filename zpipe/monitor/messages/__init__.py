"""Messages and dead letters for people: decoded, chosen, redacted, edited, and written as JSON."""
