"""TinyWorld: the procedural pictures and questions that the bundled model is trained and tested on."""

from .pictures import Chart, Picture, Scene, Shape, Sudoku, Word, draw
from .questions import ask
from .sampling import KINDS, SPLITS, sample_picture, split_of
from .world import TASKS, Sample, sample, task_sample

__all__ = [
    "KINDS", "SPLITS", "TASKS", "Chart", "Picture", "Sample", "Scene", "Shape", "Sudoku", "Word", "ask", "draw",
    "sample", "sample_picture", "split_of", "task_sample",
]
