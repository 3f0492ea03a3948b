"""What the reports of measurements share: reading the results, and putting Markdown where it belongs."""

import argparse
import json
import pathlib
import re
import textwrap

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


def groups(rows, *names):
    """The rows by the values of these fields, in the order in which they come."""
    found = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def colors(rows):
    """Of the peers that have rows."""
    return {name: COLORS[name] for (name,) in groups(rows, "peer")}


def number(value):
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def paragraph(text):
    return textwrap.fill(text, 128, break_on_hyphens=False, break_long_words=False) + "\n"


def circumstances(results, versions):
    """When and where it was measured, with what."""
    about = results["about"]
    names = [f"{name} {about[name]}" for name in versions]
    listed = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
    return f"Measured on {about['date']} on {about['system']}, {about['machine']}, with {listed}."


def turns(results):
    rounds = f"{results['rounds']} turns" if results["rounds"] > 1 else "one turn"
    return f"Cycles per second are the median of {rounds} of {results['seconds']:g} s."


def put_between_marks(document, command, markdown):
    """Into a document that has two comments which mark the place."""
    begin, end = f"<!-- what {command} has measured -->\n", f"<!-- end of what {command} has measured -->\n"
    place = re.compile(f"(?<={re.escape(begin)}).*(?={re.escape(end)})", re.DOTALL)
    text, places = place.subn(lambda _: f"\n{markdown}\n", document.read_text())
    if places != 1:
        raise SystemExit(f"{document} does not say where to put what {command} has measured")
    document.write_text(text)


def report(name, versions, plot, tabulate, remark=""):
    """The folder has the results, NAME.json, and gets the plots. The tables go into the document, if one is given, or else into
    NAME.md. `plot` gets rows, caption and folder, and returns the names of the plots, with what they show."""
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=pathlib.Path)
    options.add_argument("--document", type=pathlib.Path)
    given = options.parse_args()
    results = json.loads((given.folder / f"{name}.json").read_text())
    measured = circumstances(results, versions)
    made = plot(results["rows"], measured, given.folder)
    folder = f"{given.folder.name}/" if given.document else ""
    images = "".join(f"![{text}]({folder}{file})\n\n" for file, text in made.items())
    markdown = paragraph(f"{measured} {turns(results)}{remark}") + "\n" + images + tabulate(results["rows"])
    if given.document:
        put_between_marks(given.document, f"make {name}", markdown)
    else:
        (given.folder / f"{name}.md").write_text(markdown)
