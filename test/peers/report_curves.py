"""Makes tables in Markdown and a plot from what curves.cpp has measured."""

from plots import Figure, data, log_axis
from results import COLORS, colors, groups, number, report


def table(curve, rows):
    """A line for each number of what the curve goes along; for each peer how many cycles there are in a second."""
    peers = [name for (name,) in groups(rows, "peer")]
    lines = [f"| {curve[0].upper()}{curve[1:]} | " + " | ".join(peers) + " |", "| ---: |" + " ---: |" * len(peers)]
    for (count,), own in groups(rows, "count").items():
        lines.append(f"| {count:,} | " + " | ".join(number(row["rate"]) for row in own) + " |")
    return "\n".join(lines) + "\n"


def tabulate(rows):
    return "\n".join(table(curve, own) for (curve,), own in groups(rows, "curve").items())


def plot(rows, caption, folder):
    curves = groups(rows, "curve")
    title = "Lock and unlock: cycles per second"
    figure = Figure(folder / "curves.svg", title, caption, len(curves), 2, key=colors(rows))
    for number_of_panel, ((curve,), own) in enumerate(curves.items()):
        blocks, lines = "", []
        for place, ((name,), points) in enumerate(groups(own, "peer").items()):
            block = f"curve{number_of_panel}_{place}"
            blocks += data(block, [(row["count"], row["rate"]) for row in points])
            lines.append(
                f"${block} using 1:2 with linespoints linewidth 2 pointtype 7 pointsize 0.5 "
                f"linecolor rgb '{COLORS[name]}'"
            )
        settings = [
            *log_axis("x", min(row["count"] for row in own), max(row["count"] for row in own)),
            *log_axis("y", min(row["rate"] for row in own), max(row["rate"] for row in own)),
        ]
        figure.panel(curve, settings, lines, blocks)
    figure.save()
    return {"curves.svg": "Lock and unlock: cycles per second along connections, waiters, locks, keys and leases"}


if __name__ == "__main__":
    report("curves", ["PostgreSQL"], plot, tabulate)
