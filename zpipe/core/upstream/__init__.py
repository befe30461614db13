"""Everything above this stage: upstream instances, the queue of what they sent, the credit they have, and the acks to them."""
