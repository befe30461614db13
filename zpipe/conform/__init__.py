"""Does a stage in some language keep the protocol? It is run between scripted neighbours, and each case says what it found."""
