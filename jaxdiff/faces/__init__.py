"""Cartoon faces drawn from a key: an endless, licence-free set of images to train and test with."""

from jaxdiff.faces.attributes import Face, sample_face
from jaxdiff.faces.drawing import draw_face, render

__all__ = ["Face", "draw_face", "render", "sample_face"]
