"""MiniLM-L6 and a student with three of its layers."""

from __future__ import annotations

from examples import text


def teacher():
    """The sentence encoder with its published weights."""
    from examples.bert import minilm

    return minilm()


def student():
    """Layers 0, 3 and 5 of the teacher, to be distilled."""
    from examples.bert import minilm

    return minilm((0, 3, 5))


def calibration():
    """128 docstrings."""
    return text.part("calibration", labels=False)


def evaluation():
    """256 docstrings that nothing was calibrated or trained on."""
    return text.part("evaluation", labels=False)


def sentences():
    """What the student learns from: docstrings as text."""
    return text.part("train", labels=False)
