"""The views of the screen: each a function from the model's value to a pane of text. None knows the terminal."""
