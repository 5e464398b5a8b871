"""The table: what each target costs, the ratios to the relay, and what the proxy has to reach."""

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """A line of the table. A bound holds for the ratio to the relay, or for the value if `absolute`."""

    title: str
    metric: str
    digits: int
    must: float
    aim: float
    absolute: bool = False


# µs of a decision at connect, and the roles that there are.
DECIDING, ALL_ROLES = Row("", "", 2, 50, 5, absolute=True), 1_000

ROWS = [
    Row("GET 64 B, P=1, µs a request", "get64_p1.cpu", 2, 1.10, 0.90),
    Row("GET 64 B, P=16, µs a request", "get64_p16.cpu", 3, 1.25, 1.05),
    Row("GET 64 B, P=64, µs a request", "get64_p64.cpu", 3, 1.50, 1.25),
    Row("SET 1 KiB, P=1, µs a request", "set1k_p1.cpu", 2, 1.10, 0.90),
    Row("set-up, full handshake, µs", "setup_full.cpu", 0, 1.15, 1.00),
    Row("set-up, resumed, µs", "setup_resumed.cpu", 0, 1.15, 1.00),
    Row("GET 1 MiB, CPU s a GiB", "get1m.cpu", 2, 1.10, 0.90),
    Row("SET 1 MiB, CPU s a GiB", "set1m.cpu", 2, 1.10, 0.90),
    Row("idle connection, KiB", "idle.kib", 1, 20, 14, absolute=True),
    Row("added latency, p50, µs", "added", 1, 1.20, 1.05),
]
RATES = [("GET 64 B, P=1", "get64_p1"), ("GET 64 B, P=16", "get64_p16"), ("GET 64 B, P=64", "get64_p64"),
         ("SET 1 KiB, P=1", "set1k_p1"), ("one connection, P=1", "latency")]


class Results:
    """Samples by target and round. An invalid target keeps its reasons and shows no numbers."""

    def __init__(self, names):
        self.names = names
        self.samples = {name: {} for name in names}
        self.problems = {name: [] for name in names}

    def add(self, name, number, sample):
        self.samples[name].setdefault(number, {}).update(sample)

    def invalidate(self, name, workload, reason):
        self.problems[name].append(f"{workload}: {reason}")

    @property
    def valid(self):
        return not any(self.problems.values())

    def finish(self):
        """Added latency is what a target puts on top of the direct connection of the same round."""
        for name, rounds in self.samples.items():
            for number, sample in rounds.items():
                base = self.samples["direct"].get(number, {}).get("latency.p50")
                if name != "direct" and base and "latency.p50" in sample:
                    sample["added"] = sample["latency.p50"] - base

    def values(self, name, metric):
        if self.problems.get(name, ["not measured"]):
            return {}
        return {number: sample[metric] for number, sample in self.samples[name].items() if metric in sample}

    def median(self, name, metric):
        values = self.values(name, metric).values()
        return median(values) if values else None

    def ratios(self, metric, over="keystile", under="relay"):
        """Of one target to another, each of one round."""
        ours, floor = self.values(over, metric), self.values(under, metric)
        return [ours[number] / floor[number] for number in ours if floor.get(number, 0) > 0]

    def noise(self):
        """How far apart the relay's own rounds are, as part of their median, the worst of the GET rows."""
        worst = 0.0
        for row in ROWS[:3]:
            values = list(self.values("relay", row.metric).values())
            if values:
                worst = max(worst, (max(values) - min(values)) / median(values))
        return worst


def middle(values):
    """Their median, if there are any."""
    return median(values) if values else None


def verdict(row, value):
    if value is None:
        return "–"
    if value <= row.aim:
        return "aim met"
    return "met" if value <= row.must else "MISSED"


def text(results):
    """The whole report for people."""
    header = ["CPU (unless named)", *results.names, "÷ relay", "rounds", "must", "aim", ""]
    lines = [header, *(_line(results, row) for row in ROWS)]
    parts = [aligned(lines), "", aligned(_rates(results))]
    for name, problems in results.problems.items():
        parts += [f"INVALID {name}: {problem}" for problem in problems]
    return "\n".join(parts)


def threads(results):
    """The set-up rows again, each pair with as many threads."""
    parts = []
    for title, relay, keystile in (("one thread each", *results.names[:2]), ("a thread a core", *results.names[2:])):
        header = [title, "relay", "keystile", "÷ relay", "rounds", "must", "aim", ""]
        rows = [row for row in ROWS if row.metric.startswith("setup_")]
        parts.append(aligned([header, *(_line(results, row, keystile, relay) for row in rows)]))
    parts += [f"INVALID {target}: {problem}" for target, told in results.problems.items() for problem in told]
    return "\n\n".join(parts)


def decided(seen):
    """What a decision at connect costs, in µs; see docs/PERFORMANCE.md."""
    lines = [["deciding at connect, 1,000 roles and 5,000 databases", "µs", "must", "aim", ""]]
    for number, micros in seen:
        # Nobody holds all of them; how it grows is worth a line, and no bound.
        bound = DECIDING if number < ALL_ROLES else None
        judged = [f"≤ {bound.must:g}", f"≤ {bound.aim:g}", verdict(bound, micros)] if bound else ["–", "–", ""]
        lines.append([f"a user with {number:,} roles", f"{micros:.2f}", *judged])
    return aligned(lines)


def _line(results, row, over="keystile", under=None):
    names = [under, over] if under else results.names
    cells = [_number(results.median(name, row.metric), row.digits) for name in names]
    ratios = results.ratios(row.metric, over, under or "relay")
    ratio = middle(ratios)
    spread = f"{min(ratios):.2f}–{max(ratios):.2f}" if ratios else "–"
    judged = results.median(over, row.metric) if row.absolute else ratio
    bound = "≤ {:g} KiB" if row.absolute else "≤ {:.2f}"
    return [row.title, *cells, _number(ratio, 2), spread, bound.format(row.must), bound.format(row.aim),
            verdict(row, judged)]


def _rates(results):
    lines = [["requests a second; p50 of a batch, µs", *results.names]]
    for title, name in RATES:
        cells = []
        for target in results.names:
            rate, latency = results.median(target, f"{name}.rate"), results.median(target, f"{name}.p50")
            cells.append("–" if rate is None else f"{rate:,.0f}; {latency:,.0f}")
        lines.append([title, *cells])
    return lines


def _number(value, digits):
    return "–" if value is None else f"{value:.{digits}f}"


def aligned(lines):
    """Columns, the first one to the left."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        .rstrip()
        for line in lines)
