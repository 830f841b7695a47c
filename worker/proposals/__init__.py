"""Class-agnostic masks: from a photo to ``Proposals``, before any text."""
