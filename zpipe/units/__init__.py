"""A pipeline as systemd sees it: units named PIPELINE.STAGE.N, a target, and drop-ins that order them."""
