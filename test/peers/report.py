"""Makes tables in Markdown and plots from what peers.cpp has measured.

The folder has the results, peers.json, and gets the plots. The tables go into a file of their own, or into a document,
between two comments that mark the place.
"""

import argparse
import json
import pathlib
import re
import statistics

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

BEGIN, END = "<!-- what make peers has measured -->\n", "<!-- end of what make peers has measured -->\n"

# the same in each run, in colors that can be read on white and on black
plt.rcParams.update({"svg.hashsalt": "postgres_lock", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10})
INK = "#808080"
COLORS = {
    "built-in": "#7f8fa6",
    "SQL functions": "#5b9bd5",
    "guard": "#2f7fd0",
    "critical section": "#1f9e89",
    "lease": "#c08a1e",
    "lease, checked": "#d9a441",
    "Redis": "#d1495b",
    "Redis, AOF": "#b0707a",
    "MariaDB": "#9467bd",
    "etcd": "#8c6d5a",
}
TITLES = {
    "alone": "Lock and unlock, each client with a key of its own",
    "one key": "Lock and unlock of one key",
    "update": "Lock, UPDATE of one row, unlock",
}


def groups(rows, *names):
    """The rows by the values of these fields, in the order in which they come."""
    found = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def network(delay_us):
    return f"a network of {delay_us / 1000:g} ms each way" if delay_us else "no network in between"


def durability(row):
    return f", `synchronous_commit = {'on' if row['synchronous_commit'] else 'off'}`" if row["case"] == "update" else ""


#
# Tables
#


def number(value):
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows):
    """A line for each peer; for each number of clients how many cycles there are in a second, and the waits."""
    counts = list(groups(rows, "clients"))
    heads = [f"{count} client{'s' if count > 1 else ''}: /s | p50, p99 in ms" for (count,) in counts]
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " ---: | ---: |" * len(counts)]
    for (name,), own in groups(rows, "peer").items():
        cells = []
        for row in own:
            cells.append(number(row["rate"]))
            cells.append("–" if row["p50_ms"] is None else f"{number(row['p50_ms'])}, {number(row['p99_ms'])}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def tables(rows):
    parts = []
    for (case, delay, _), own in groups(rows, "case", "delay_us", "synchronous_commit").items():
        parts.append(f"{TITLES[case]}; {network(delay)}{durability(own[0])}:\n\n{table(own)}")
    return "\n".join(parts)


def introduction(results):
    about = results["about"]
    return (
        f"Measured on {about['date']} on {about['system']}, {about['machine']}, with PostgreSQL {about['PostgreSQL']}, "
        f"Redis {about['Redis']}, MariaDB {about['MariaDB']} and etcd {about['etcd']}. Cycles per second are the median of "
        f"{results['rounds']} turns of {results['seconds']:g} s. The times are how long a client waits for the lock.\n"
    )


#
# Bars
#


def ratio(rows, name, other):
    """The median of the ratios of the rounds."""
    rates = {row["peer"]: row["rates"] for row in rows}
    return statistics.median(ours / theirs for ours, theirs in zip(rates[name], rates[other]))


def bars_kept(rows):
    """What a change must not miss, and whether this is so."""
    for (case, clients, delay, commit), own in groups(rows, "case", "clients", "delay_us", "synchronous_commit").items():
        wanted = [("SQL functions", "built-in", 0.95), ("guard", "built-in", 0.95)]
        if case == "update" and not commit:
            wanted.append(("critical section", "Redis", 1.2 if clients == 1 else 2))
        for name, other, bar in wanted:
            found = ratio(own, name, other)
            verdict = "" if found >= bar else "   MISSED"
            yield f"{case:8} {clients:3} {delay:5} us   {name + ' to ' + other:28} {found:6.2f}   bar {bar:4}{verdict}"


#
# Plots
#


def plain_ticks(axis):
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value < 1 else f"{value:,.0f}"))


def bars(axes, rows):
    """How many cycles in a second, by the number of clients."""
    peers = list(groups(rows, "peer"))
    counts = list(groups(rows, "clients"))
    width = 0.85 / len(peers)
    for place, (name,) in enumerate(peers):
        rates = [row["rate"] for row in rows if row["peer"] == name]
        left = [count - 0.425 + (place + 0.5) * width for count in range(len(counts))]
        axes.bar(left, rates, width * 0.92, color=COLORS[name], label=name)
    axes.set_xticks(range(len(counts)), [f"{count} client{'s' if count > 1 else ''}" for (count,) in counts])
    axes.set_yscale("log")
    plain_ticks(axes.yaxis)


def waits(axes, rows):
    """From the median of the waits to what one in a hundred exceeds."""
    rows = [row for row in rows if row["p50_ms"] is not None]
    for place, row in enumerate(reversed(rows)):
        color = COLORS[row["peer"]]
        axes.plot([row["p50_ms"], row["p99_ms"]], [place, place], color=color, linewidth=3, solid_capstyle="round")
        axes.plot([row["p50_ms"]], [place], "o", color=color)
    axes.set_yticks(range(len(rows)), [row["peer"] for row in reversed(rows)])
    axes.set_xscale("log")
    plain_ticks(axes.xaxis)


def plain(axes, title):
    axes.set_title(title, color=INK, fontsize=10)
    axes.tick_params(colors=INK, which="both")
    axes.grid(color=INK, alpha=0.25, axis="both" if axes.get_xscale() == "log" else "y")
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))


def save(figure, path):
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def plot_rates(rows, case, path):
    panels = groups(rows, "synchronous_commit", "delay_us")
    figure, all_axes = plt.subplots(len(panels), 1, figsize=(9, 2.6 * len(panels) + 0.6), squeeze=False)
    for axes, own in zip(all_axes.flat, panels.values()):
        bars(axes, own)
        plain(axes, network(own[0]["delay_us"]) + durability(own[0]).replace("`", ""))
        axes.set_ylabel("cycles/s", color=INK)
    handles, labels = all_axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=5, frameon=False, labelcolor=INK)
    figure.suptitle(TITLES[case], color=INK)
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    save(figure, path)


def plot_waits(rows, path):
    panels = groups([row for row in rows if row["case"] != "update" and row["delay_us"] == 0], "case", "clients")
    figure, all_axes = plt.subplots(2, 2, figsize=(9, 6), squeeze=False)
    for axes, ((case, clients), own) in zip(all_axes.flat, panels.items()):
        waits(axes, own)
        keys = "one key" if case == "one key" else "own keys" if clients > 1 else "own key"
        plain(axes, f"{clients} client{'s' if clients > 1 else ''}, {keys}")
    for axes in all_axes[-1]:
        axes.set_xlabel("ms", color=INK)
    figure.suptitle("Waiting for the lock: the median (dot) to the 99th percentile", color=INK)
    figure.tight_layout()
    save(figure, path)


def plots(results, folder):
    """Makes them, and returns their names with what they show."""
    made = {}
    for (case,), rows in groups(results["rows"], "case").items():
        name = f"peers-{case.replace(' ', '-')}.svg"
        plot_rates(rows, case, folder / name)
        made[name] = f"{TITLES[case]}: cycles per second"
    if any(row["delay_us"] == 0 for row in results["rows"]):
        plot_waits(results["rows"], folder / "peers-waits.svg")
        made["peers-waits.svg"] = "How long clients wait for the lock"
    return made


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=pathlib.Path)
    options.add_argument("--tables", type=pathlib.Path)
    options.add_argument("--document", type=pathlib.Path)
    given = options.parse_args()
    results = json.loads((given.folder / "peers.json").read_text())
    made = plots(results, given.folder)
    print("\nbars\n" + "\n".join(bars_kept(results["rows"])))
    if given.tables:
        given.tables.write_text(introduction(results) + "\n" + tables(results["rows"]))
    if given.document:
        images = "".join(f"![{text}]({given.folder.name}/{name})\n\n" for name, text in made.items())
        text = given.document.read_text()
        place = re.compile(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", re.DOTALL)
        found = f"\n{introduction(results)}\n{images}{tables(results['rows'])}\n"
        text, places = place.subn(lambda _: found, text)
        if places != 1:
            raise SystemExit(f"{given.document} does not say where the tables are to go")
        given.document.write_text(text)


if __name__ == "__main__":
    main()
