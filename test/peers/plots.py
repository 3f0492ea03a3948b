"""Plots by gnuplot, as SVG without a background, in colors that can be read on white and on black."""

import subprocess
import textwrap

INK = "#808080"
WIDTH = 900


def quoted(text):
    return "'" + str(text).replace("'", "''") + "'"


def label(number, text, height, size):
    return (
        f"set label {number} {quoted(text)} at screen 0.5, screen {height} center "
        f"textcolor rgb '{INK}' font ',{size}'"
    )


def data(name, rows):
    """A block of data; each row is a sequence of numbers and texts."""
    lines = (" ".join(str(value) if isinstance(value, (int, float)) else f'"{value}"' for value in row) for row in rows)
    return f"${name} << EOD\n" + "\n".join(lines) + "\nEOD\n"


class Figure:
    """Panels below each other, in so many columns. At the bottom are one key for all of them, names with their colors, and the
    caption."""

    def __init__(self, path, title, caption, panels, columns=1, left=70, key=None):
        self.path = path
        self.key = key or {}
        rows = -(-panels // columns)
        lines = textwrap.wrap(caption, 150)
        foot = 15 + 14 * len(lines)
        self.bottom = foot + (95 if key else 40)
        self.height = 70 + self.bottom + 160 * rows + 60 * (rows - 1)
        self.lines = [
            f"set terminal svg noenhanced dynamic size {WIDTH},{self.height} font 'sans-serif,13'",
            f"set output {quoted(path)}",
            f"set border 3 linecolor rgb '{INK}'",
            f"set tics nomirror textcolor rgb '{INK}'",
            f"set grid linecolor rgb '{INK}' linetype 1 linewidth 0.3",
            "unset key",
            label(1, title, self.at(-20), 16),
            *(label(2 + i, line, self.at(foot - 10 - 14 * i), 10) for i, line in enumerate(lines)),
            f"set multiplot layout {rows},{columns} margins screen {left / WIDTH},0.97,{self.at(self.bottom)},{self.at(-70)} "
            f"spacing screen {left / WIDTH + 0.02},{self.at(60)}",
        ]

    def at(self, pixels):
        """From the bottom, or if negative from the top, as a share of the height."""
        return (pixels % self.height) / self.height

    def panel(self, title, settings, curves, blocks=""):
        """Curves are what `plot` is given."""
        self.lines += [
            f"set title {quoted(title)} textcolor rgb '{INK}' offset 0,-0.5",
            *settings,
            blocks,
            "plot " + ", \\\n  ".join(curves),
            "unset label",  # title and caption are shown once
        ]

    def save(self):
        if self.key:
            self.draw_key()
        subprocess.run(["gnuplot"], input="\n".join(self.lines) + "\n", text=True, check=True)

    def draw_key(self):
        """By a plot of its own that shows nothing else, as wide as the figure."""
        boxes = (f"NaN with boxes fillstyle solid linecolor rgb '{color}' title {quoted(name)}" for name, color in self.key.items())
        self.lines += [
            "unset title; unset border; unset tics; unset grid; unset xlabel; unset ylabel; unset logscale",
            "set lmargin at screen 0.02; set rmargin at screen 0.98",
            f"set bmargin at screen {self.at(self.bottom - 90)}; set tmargin at screen {self.at(self.bottom - 40)}",
            f"set key center center horizontal maxcols 5 textcolor rgb '{INK}' samplen 1",
            "plot [0:1][0:1] " + ", \\\n  ".join(boxes),
        ]


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
