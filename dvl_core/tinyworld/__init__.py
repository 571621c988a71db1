"""TinyWorld: the procedural pictures and questions that the bundled model is trained and tested on."""

from .drawing import draw, render
from .pictures import Chart, Other, Picture, Scene, Shape, Style, Sudoku, Sum, Table, Text
from .questions import ask
from .sampling import KINDS, SPLITS, sample_picture, split_of
from .world import TASKS, Sample, sample, task_sample

__all__ = [
    "KINDS", "SPLITS", "TASKS", "Chart", "Other", "Picture", "Sample", "Scene", "Shape", "Style", "Sudoku", "Sum",
    "Table", "Text", "ask", "draw", "render", "sample", "sample_picture", "split_of", "task_sample",
]
