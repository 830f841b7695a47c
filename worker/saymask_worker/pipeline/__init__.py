"""From an image and an expression to ranked masks: the order of the stages and their timing."""
