"""CLIP features of proposals and of text."""
