"""Class-agnostic masks: from an image to ``Proposals``, before any text."""
