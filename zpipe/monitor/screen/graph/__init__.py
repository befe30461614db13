"""The pipeline as a drawing: where its boxes and lines go, and how they are drawn with characters."""
