"""Makes tables in Markdown and plots from what peers.cpp has measured, and says which bars were missed."""

import statistics

from plots import Figure, data, log_axis, quoted
from results import COLORS, colors, groups, number, report

TITLES = {
    "alone": "Lock and unlock, each client with a key of its own",
    "one key": "Lock and unlock of one key",
    "update": "Lock, UPDATE of one row, unlock",
}


def clients(count):
    return f"{count} client{'s' if count > 1 else ''}"


def network(delay_us):
    return f"a network of {delay_us / 1000:g} ms each way" if delay_us else "no network in between"


def durability(row):
    return f", `synchronous_commit = {'on' if row['synchronous_commit'] else 'off'}`" if row["case"] == "update" else ""


#
# Tables
#


def table(rows):
    """A line for each peer; for each number of clients how many cycles there are in a second, and the waits."""
    counts = list(groups(rows, "clients"))
    heads = [f"{clients(count)}: /s | p50, p99 in ms" for (count,) in counts]
    lines = ["| | " + " | ".join(heads) + " |", "| --- |" + " ---: | ---: |" * len(counts)]
    for (name,), own in groups(rows, "peer").items():
        cells = []
        for row in own:
            cells.append(number(row["rate"]))
            cells.append("–" if row["p50_ms"] is None else f"{number(row['p50_ms'])}, {number(row['p99_ms'])}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def tabulate(rows):
    parts = []
    for (case, delay, _), own in groups(rows, "case", "delay_us", "synchronous_commit").items():
        parts.append(f"{TITLES[case]}; {network(delay)}{durability(own[0])}:\n\n{table(own)}")
    return "\n".join(parts)


#
# Bars
#


def ratio(rows, name, other):
    """The median of the ratios of the rounds."""
    rates = {row["peer"]: row["rates"] for row in rows}
    return statistics.median(ours / theirs for ours, theirs in zip(rates[name], rates[other]))


def bars_kept(rows):
    """What a change must not miss, and whether this is so."""
    for (case, count, delay, commit), own in groups(rows, "case", "clients", "delay_us", "synchronous_commit").items():
        wanted = [("SQL functions", "built-in", 0.95), ("guard", "built-in", 0.95)]
        if case == "update" and not commit:
            wanted.append(("critical section", "Redis", 1.2 if count == 1 else 2))
        for name, other, bar in wanted:
            found = ratio(own, name, other)
            verdict = "" if found >= bar else "   MISSED"
            durable = "on " if commit else "off"
            yield f"{case:8} {count:3} {delay:5} us, {durable}   {name + ' to ' + other:28} {found:6.2f}   bar {bar:4}{verdict}"


#
# Plots
#


def plot_rates(rows, case, caption, path):
    """How many cycles in a second, by the number of clients."""
    panels = groups(rows, "delay_us", "synchronous_commit")
    columns = len(groups(rows, "synchronous_commit"))
    figure = Figure(path, f"{TITLES[case]}: cycles per second", caption, len(panels), columns, key=colors(rows))
    for number, own in enumerate(panels.values()):
        peers = list(groups(own, "peer").items())
        counts = [count for (count,) in groups(own, "clients")]
        width = 0.85 / len(peers)
        blocks, curves = "", []
        for place, ((name,), bars) in enumerate(peers):
            block = f"bars{number}_{place}"
            left = (place + 0.5) * width - 0.425
            blocks += data(block, [(count + left, row["rate"]) for count, row in enumerate(bars)])
            curves.append(
                f"${block} using 1:2:({width * 0.92}) with boxes fillstyle solid noborder "
                f"linecolor rgb '{COLORS[name]}'"
            )
        ticks = ", ".join(f"'{clients(count)}' {place}" for place, count in enumerate(counts))
        settings = [
            *log_axis("y", min(row["rate"] for row in own), max(row["rate"] for row in own)),
            f"set xrange [-0.5:{len(counts) - 0.5}]",
            f"set xtics ({ticks}) scale 0",
        ]
        title = network(own[0]["delay_us"]) + durability(own[0]).replace("`", "")
        figure.panel(title, settings, curves, blocks)
    figure.save()


def plot_waits(rows, caption, path):
    """From the median of the waits, a dot, to what one in a hundred exceeds."""
    panels = groups([row for row in rows if row["p50_ms"] and row["case"] != "update" and not row["delay_us"]], "case", "clients")
    title = "Wait for the lock in ms: median (dot) to 99th percentile"
    figure = Figure(path, title, caption, len(panels), 2, left=120)
    for number, ((case, count), own) in enumerate(panels.items()):
        block = f"waits{number}"
        lines = [
            (row["p50_ms"], len(own) - place, row["p99_ms"] - row["p50_ms"], int(COLORS[row["peer"]][1:], 16))
            for place, row in enumerate(own)
        ]
        ticks = ", ".join(f"{quoted(row['peer'])} {len(own) - place}" for place, row in enumerate(own))
        settings = [
            *log_axis("x", min(row["p50_ms"] for row in own), max(row["p99_ms"] for row in own)),
            f"set yrange [0.5:{len(own) + 0.5}]",
            f"set ytics ({ticks})",
        ]
        curves = [
            f"${block} using 1:2:3:(0):4 with vectors nohead linewidth 4 linecolor rgb variable",
            f"${block} using 1:2:4 with points pointtype 7 pointsize 0.7 linecolor rgb variable",
        ]
        figure.panel(f"{clients(count)}, {'one key' if case == 'one key' else 'own keys'}", settings, curves, data(block, lines))
    figure.save()


def plot(rows, caption, folder):
    print("\nbars\n" + "\n".join(bars_kept(rows)))
    made = {}
    for (case,), own in groups(rows, "case").items():
        name = f"peers-{case.replace(' ', '-')}.svg"
        plot_rates(own, case, caption, folder / name)
        made[name] = f"{TITLES[case]}: cycles per second"
    if any(row["delay_us"] == 0 for row in rows):
        plot_waits(rows, caption, folder / "peers-waits.svg")
        made["peers-waits.svg"] = "How long clients wait for the lock"
    return made


if __name__ == "__main__":
    report(
        "peers",
        ["PostgreSQL", "Redis", "MariaDB", "etcd"],
        plot,
        tabulate,
        " The times are how long a client waits for the lock.",
    )
