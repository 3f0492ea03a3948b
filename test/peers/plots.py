"""Plots by gnuplot, as SVG without a background, in colors that can be read on white and on black."""

import subprocess

INK = "#808080"
WIDTH = 900


def quoted(text):
    return "'" + str(text).replace("'", "''") + "'"


def data(name, rows):
    """A block of data; each row is a sequence of numbers and texts."""
    lines = (" ".join(str(value) if isinstance(value, (int, float)) else f'"{value}"' for value in row) for row in rows)
    return f"${name} << EOD\n" + "\n".join(lines) + "\nEOD\n"


class Figure:
    """Panels below each other, in so many columns, with one key for all of them at the bottom."""

    def __init__(self, path, title, panels, columns=1, left=70, has_key=True):
        self.path = path
        rows = -(-panels // columns)
        bottom = 90 if has_key else 50
        height = 70 + bottom + 210 * rows
        self.lines = [
            f"set terminal svg noenhanced dynamic size {WIDTH},{height} font 'sans-serif,13'",
            f"set output {quoted(path)}",
            f"set border 3 linecolor rgb '{INK}'",
            f"set tics nomirror textcolor rgb '{INK}'",
            f"set grid linecolor rgb '{INK}' linetype 1 linewidth 0.3",
            f"set label 1 {quoted(title)} at screen 0.5, screen {1 - 20 / height} center textcolor rgb '{INK}' font ',16'",
            f"set key at screen 0.5, screen {30 / height} center horizontal maxcols 5 textcolor rgb '{INK}' samplen 1",
            f"set multiplot layout {rows},{columns} margins screen {left / WIDTH},0.97,{bottom / height},{1 - 70 / height} "
            f"spacing screen {left / WIDTH + 0.02},{60 / height}",
        ]
        self.keys = panels if has_key else 0

    def panel(self, title, settings, curves, blocks=""):
        """Curves are what `plot` is given; of the key's titles those of the last panel are shown."""
        self.keys -= 1
        self.lines += [
            f"set title {quoted(title)} textcolor rgb '{INK}' offset 0,-0.5",
            "unset label 1" if len(self.lines) > 10 else "",
            *settings,
            blocks,
            "set key" if self.keys == 0 else "unset key",
            "plot " + ", \\\n  ".join(curves),
        ]

    def save(self):
        subprocess.run(["gnuplot"], input="\n".join(self.lines) + "\n", text=True, check=True)


def log_axis(axis, low, high):
    """With plain numbers at its powers of ten, and whole powers as its ends."""
    first, last = power_below(low), power_below(high) * (1 if power_below(high) == high else 10)
    ticks, value = [], first
    while value <= last * 1.0001:
        ticks.append(f"'{value:,.0f}' {value}" if value >= 1 else f"'{value:.3g}' {value:.3g}")
        value *= 10
    return [f"set logscale {axis}", f"set {axis}range [{first * 0.999}:{last * 1.001}]", f"set {axis}tics ({', '.join(ticks)})"]


def power_below(value):
    power = 1.0
    while power > value:
        power /= 10
    while power * 10 <= value:
        power *= 10
    return power


def axis_title(axis, text):
    return f"set {axis}label {quoted(text)} textcolor rgb '{INK}'"
