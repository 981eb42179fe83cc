"""SVG charts that live inside the page: no scripts, no fonts, colours from the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f4fbf", "#a0522d", "#5f6b6d", "#c2185b")
"""Told apart also by most people who see colours differently (after Okabe and Ito); shapes tell them apart as well."""
_SHAPES = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True, slots=True)
class Series:
    """A line of a chart: points (x, y), by rising x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Spot:
    """A point of a scatter plot, with the half-widths of its error bars."""

    name: str
    x: float
    y: float
    x_error: float = 0.0
    y_error: float = 0.0


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps values to places: a plot of ``width`` × ``height`` with margins around it."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 640
    height: int = 340
    left: int = 56
    right: int = 150
    top: int = 16
    bottom: int = 48

    def at(self, x: float, y: float) -> tuple[float, float]:
        inner, tall = self.width - self.left - self.right, self.height - self.top - self.bottom
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return round(self.left + across * inner, 1), round(self.top + (1 - up) * tall, 1)


def line_chart(series: Sequence[Series], colours: Mapping[str, int], *, x: str, y: str, label: str) -> str:
    """Return a chart of lines that are named at their right ends."""
    xs = [point[0] for line in series for point in line.points]
    frame = _Frame((0, max(xs)), (0, 1))
    parts = _axes(frame, x, y, _ticks(max(xs)))
    ends = []
    for line in series:
        colour = colours[line.name]
        places = [frame.at(*point) for point in line.points]
        path = " ".join(f"{across},{down}" for across, down in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{_colour(colour)}" stroke-width="2"/>')
        parts += [
            _marker(place, colour, f"{line.name}: {point[1]:.3f} after {point[0]:g}")
            for place, point in zip(places, line.points, strict=True)
        ]
        ends.append((places[-1], line.name, colour))
    parts += _end_labels(ends, frame)
    return _svg(frame, parts, label)


def scatter(spots: Sequence[Spot], colours: Mapping[str, int], *, x: str, y: str, label: str) -> str:
    """Return a scatter plot over 0…1 × 0…1 with error bars and a legend."""
    frame = _Frame((0, 1.02), (0, 1.02))
    parts = _axes(frame, x, y, (0, 0.2, 0.4, 0.6, 0.8, 1.0))
    for spot in spots:
        colour = _colour(colours[spot.name])
        for (x1, y1), (x2, y2) in (
            (frame.at(max(0, spot.x - spot.x_error), spot.y), frame.at(min(1.02, spot.x + spot.x_error), spot.y)),
            (frame.at(spot.x, max(0, spot.y - spot.y_error)), frame.at(spot.x, min(1.02, spot.y + spot.y_error))),
        ):
            parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" opacity="0.45"/>')
    for spot in spots:
        parts.append(
            _marker(frame.at(spot.x, spot.y), colours[spot.name], f"{spot.name}: {spot.x:.3f}, {spot.y:.3f}", 5)
        )
    parts += _legend([spot.name for spot in spots], colours, frame)
    return _svg(frame, parts, label)


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Mapping[tuple[str, str], tuple[float, int]], *, label: str
) -> str:
    """Return a map of 0…1: a row a relation, a column a method; the number stands in its cell, n in its tooltip."""
    wide, tall, left, top = 74, 22, 96, 26
    parts = []
    for number, column in enumerate(columns):
        x = left + number * wide + wide / 2
        parts.append(f'<text x="{x}" y="{top - 9}" text-anchor="middle" class="t">{escape(column[:11])}</text>')
    for down, row in enumerate(rows):
        y = top + down * tall
        parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end" class="t">{escape(row[:14])}</text>')
        for across, column in enumerate(columns):
            found = values.get((row, column))
            if found is None:
                continue
            value, n = found
            x = left + across * wide
            ink = "#fff" if value > 0.55 else "#10222e"
            title = f"<title>{escape(f'{row}, {column}: {value:.3f} over {n} cases')}</title>"
            box = f'x="{x + 1}" y="{y + 1}" width="{wide - 2}" height="{tall - 2}" fill="{_shade(value)}"'
            place = f'x="{x + wide / 2}" y="{y + 15}" text-anchor="middle" class="t" style="fill:{ink}"'
            parts.append(f"<g>{title}<rect {box}/><text {place}>{value:.2f}</text></g>")
    width, height = left + len(columns) * wide + 8, top + len(rows) * tall + 8
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def colour_of(names: Sequence[str]) -> dict[str, int]:
    """Give each name a colour and shape, the same in every chart of a report."""
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _shade(value: float) -> str:
    """Return one hue from pale to dark, for 0…1."""
    pale, dark = (226, 238, 246), (8, 81, 138)
    mixed = [round(a + (b - a) * min(1.0, max(0.0, value))) for a, b in zip(pale, dark, strict=True)]
    return f"rgb({mixed[0]},{mixed[1]},{mixed[2]})"


def _marker(place: tuple[float, float], colour: int, title: str, size: float = 4) -> str:
    x, y = place
    fill = f'fill="{_colour(colour)}"'
    shape = _SHAPES[colour % len(_SHAPES)]
    if shape == "circle":
        body = f'<circle cx="{x}" cy="{y}" r="{size}" {fill}/>'
    elif shape == "square":
        body = f'<rect x="{x - size}" y="{y - size}" width="{2 * size}" height="{2 * size}" {fill}/>'
    elif shape == "triangle":
        body = f'<path d="M{x} {y - size - 1}L{x + size + 1} {y + size}L{x - size - 1} {y + size}Z" {fill}/>'
    else:
        body = f'<path d="M{x} {y - size - 1}L{x + size + 1} {y}L{x} {y + size + 1}L{x - size - 1} {y}Z" {fill}/>'
    return f"<g><title>{escape(title)}</title>{body}</g>"


def _ticks(most: float) -> tuple[float, ...]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10**5, 10**7) if most / step <= 8)
    return tuple(step * place for place in range(int(most // step) + 1))


def _axes(frame: _Frame, x: str, y: str, x_ticks: Sequence[float]) -> list[str]:
    parts = []
    right, bottom = frame.width - frame.right, frame.height - frame.bottom
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1.0):
        _, down = frame.at(frame.x[0], tick)
        parts.append(f'<line x1="{frame.left}" y1="{down}" x2="{right}" y2="{down}" class="grid"/>')
        parts.append(f'<text x="{frame.left - 8}" y="{down + 4}" text-anchor="end" class="t">{tick:.1f}</text>')
    for tick in x_ticks:
        across, _ = frame.at(tick, 0)
        parts.append(f'<line x1="{across}" y1="{bottom}" x2="{across}" y2="{bottom + 4}" class="axis"/>')
        parts.append(f'<text x="{across}" y="{bottom + 18}" text-anchor="middle" class="t">{tick:g}</text>')
    middle = (frame.left + right) / 2
    parts.append(f'<line x1="{frame.left}" y1="{bottom}" x2="{right}" y2="{bottom}" class="axis"/>')
    parts.append(f'<text x="{middle}" y="{frame.height - 8}" text-anchor="middle" class="t">{escape(x)}</text>')
    parts.append(
        f'<text transform="translate(14 {(frame.top + bottom) / 2}) rotate(-90)" text-anchor="middle" class="t">'
        f"{escape(y)}</text>"
    )
    return parts


def _end_labels(ends: Sequence[tuple[tuple[float, float], str, int]], frame: _Frame) -> list[str]:
    """Name lines at their ends, moved apart where they would cover each other."""
    parts, lowest = [], 0.0
    for (x, y), name, colour in sorted(ends):
        del x
        lowest = max(y, lowest + 14)
        across = frame.width - frame.right + 14
        parts.append(_marker((across, lowest), colour, name))
        parts.append(f'<text x="{across + 10}" y="{lowest + 4}" class="t">{escape(name[:20])}</text>')
    return parts


def _legend(names: Sequence[str], colours: Mapping[str, int], frame: _Frame) -> list[str]:
    across = frame.width - frame.right + 14
    parts = []
    for place, name in enumerate(dict.fromkeys(names)):
        down = frame.top + 8 + 18 * place
        parts.append(_marker((across, down), colours[name], name))
        parts.append(f'<text x="{across + 10}" y="{down + 4}" class="t">{escape(name[:20])}</text>')
    return parts


def _svg(frame: _Frame, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {frame.width} {frame.height}" width="{frame.width}" height="{frame.height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
