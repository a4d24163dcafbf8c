"""What HTML pages share: one file each, no network, no scripts."""

import base64
import html
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jepawm.evaluation.filmstrips import enlarged, with_strip
from jepawm.evaluation.metrics import SuccessRate

PLANNED, RANDOM = "#1f6feb", "#8b97a5"
# Policies that search nothing.
LEARNED = ("#d1702f", "#8250df", "#0b7285")

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2430;background:#fff}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #d8dee6}
.big{font-size:2.4rem;font-weight:650}.muted{color:#5b6878}table{border-collapse:collapse;margin:.6rem 0}
td,th{padding:.25rem .8rem .25rem 0;text-align:left;vertical-align:top}
th{font-weight:600;border-bottom:1px solid #d8dee6}
td.n{font-variant-numeric:tabular-nums}.rolls{display:flex;flex-wrap:wrap;gap:1rem}.roll{border:1px solid #d8dee6;
border-radius:6px;padding:.6rem}.roll img{image-rendering:pixelated;width:128px;border:1px solid #eee}
.ok{color:#17703a;font-weight:600}.no{color:#a4262c;font-weight:600}details{margin:1rem 0}
pre{background:#f5f7fa;padding:.8rem;overflow:auto;font-size:12px}svg{max-width:100%;height:auto}
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: In the browser's tab.
        parts: HTML, in order.
    """
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def percent(rate: SuccessRate) -> str:
    """A rate with its interval, in percent."""
    low, high = rate.success_interval
    return f"{100 * rate.success_rate:.1f} % <span class=muted>[{100 * low:.1f}, {100 * high:.1f}]</span>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML cells; cells after the first are numbers."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(
        f"<tr><td>{row[0]}</td>{''.join(f'<td class=n>{cell}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """A table of names and values that are plain text."""
    rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>" for name, value in pairs)
    return f"<table>{rows}</table>"


def figure(draw: Callable[[Any], None], size: tuple[float, float], *, columns: int = 1) -> str:
    """A plot as SVG.

    Args:
        draw: Draws on matplotlib axes; on an array of them where there are several columns.
        size: Width and height, inches.
        columns: Axes beside each other.
    """
    from matplotlib.figure import Figure

    drawn = Figure(figsize=size, layout="constrained")
    axes = drawn.subplots(1, columns)
    for each in np.atleast_1d(axes):
        each.spines[["top", "right"]].set_visible(False)
    draw(axes)
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def intervals(axes: Any, rows: Sequence[tuple[str, Sequence[tuple[str, str, SuccessRate]]]]) -> None:
    """Draws rates with their intervals, one line a row.

    Args:
        axes: Of matplotlib.
        rows: Label of each row, and the label, colour and rate of what stands in it.
    """
    for at, (_, entries) in enumerate(rows):
        for shift, (label, colour, rate) in zip(np.linspace(-0.12, 0.12, len(entries)), entries, strict=True):
            axes.plot(rate.success_interval, [at + shift] * 2, color=colour, linewidth=3, solid_capstyle="round")
            axes.plot(rate.success_rate, at + shift, "o", color=colour, label=label if at == 0 else None)
    axes.set(xlim=(-0.02, 1.02), xlabel="success rate, 95 % interval")
    axes.set(yticks=range(len(rows)), yticklabels=[label for label, _ in rows])
    axes.invert_yaxis()
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def picture(frame: np.ndarray) -> str:
    """An image `[Y,X,C]` uint8 as a data address."""
    return webp([enlarged(frame)], [1000])


def animation(frames: np.ndarray, captions: Sequence[str], *, frame_ms: int = 80, pause_ms: int = 1500) -> str:
    """Frames `[F,Y,X,C]` uint8 as a data address: they rest on the first and the last frame, above a strip with a bar
    that shows how far they are, and a caption.

    Args:
        frames: `F` frames.
        captions: One for each frame, a few letters long.
        frame_ms: Time of a frame, ms.
        pause_ms: Time of the first and the last frame, ms.
    """
    images = [
        with_strip(enlarged(frame), (at + 1) / len(frames), caption)
        for at, (frame, caption) in enumerate(zip(frames, captions, strict=True))
    ]
    durations = [pause_ms, *[frame_ms] * (len(images) - 2), pause_ms][: len(images)]
    return webp(images, durations)


def webp(images: Sequence[np.ndarray], durations: Sequence[int]) -> str:
    """Images `[Y,X,3]` uint8 as an animation in a data address, each for some ms."""
    from PIL import Image

    first, *rest = [Image.fromarray(image) for image in images]
    buffer = io.BytesIO()
    first.save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=rest,
        duration=list(durations),
        loop=0,
        lossless=True,
    )
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
