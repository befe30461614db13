"""What goes over the wire: frames, sections of messages, and their bytes. Nothing here knows a link or a stage."""
