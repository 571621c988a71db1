"""What can be fetched of a run over HTTP: a picture of its conversation at any time, files once it is over."""

from __future__ import annotations

from dvl_core.trace import DenoisingTrace
from visualize.export import FORMATS, format_of
from visualize.export.pictures import bitmap_of
from visualize.heatmap import CannotDraw

Answer = tuple[int, str, bytes]  # HTTP status, media type, body


def download(trace: DenoisingTrace | None, file: str, mode: str = "light") -> Answer:
    """The file called `file` of a run.

    Args:
        trace: of the run; None when it is not kept.
        file: "picture-N", or a name with an ending of `visualize.export.FORMATS`.
        mode: "light" or "dark", for what is drawn.
    """
    if trace is None:
        return _refused(404, "This run is not kept any more.")
    if file.startswith("picture-"):
        return _picture(trace, file.removeprefix("picture-"))
    if trace.finish_reason is None:
        return _refused(404, "This run has not finished.")
    kind = format_of(file)
    if kind is None:
        return _refused(404, f"There is no such file; the endings are {', '.join(FORMATS)}.")
    try:
        return 200, kind.media_type, kind.make(trace, mode)
    except CannotDraw as error:
        return _refused(422, str(error))


def _picture(trace: DenoisingTrace, number: str) -> Answer:
    data = trace.images[int(number)].data if number.isdecimal() and int(number) < len(trace.images) else None
    bitmap = bitmap_of(data)
    if bitmap is None:
        return _refused(404, "There is no such picture.")
    return 200, *bitmap


def _refused(status: int, sentence: str) -> Answer:
    return status, "text/plain; charset=utf-8", sentence.encode()
