"""Everything below this stage: what is unsent or in flight on each link, and which consumer gets the next parcel."""
