"""What the two ways found, side by side."""

import fnmatch
import pathlib
import typing


def report(results, kind, parts):
    """Prints each suite's sums and differences; 1 if one is not in known.txt."""
    known = read_known()
    unexplained = 0
    for suite, found in results.items():
        direct, proxy = ({f"{part}: {test}": outcome for part, ways in found.items() if not parts or part in parts
                          for test, outcome in ways.get(way, {}).items()} for way in ("direct", "proxy"))
        passed = [test for test, outcome in direct.items() if outcome == "ok"]
        skipped = [test for test, outcome in direct.items() if outcome == "skipped"]
        differ = [test for test in passed if proxy.get(test) != "ok"]
        better = [test for test, outcome in proxy.items() if outcome == "ok" and direct.get(test) != "ok"]
        print(f"\n{suite}: {len(passed)} pass directly, {len(passed) - len(differ)} of those through the proxy; "
              f"{len(direct) - len(passed) - len(skipped)} fail directly, {len(skipped)} are skipped; "
              f"{len(better)} pass through the proxy alone")
        for test in differ:
            outcome = proxy.get(test, "not run")
            reason = next((entry.reason for entry in known if entry.explains(f"{kind} {suite} {test}", outcome)), None)
            unexplained += reason is None
            print(f"  {'known' if reason else 'NEW  '} {test}\n        {outcome}" + (f"\n        {reason}" if reason else ""))
    return 1 if unexplained else 0


class Known(typing.NamedTuple):
    """A line of known.txt: which tests, what they say if not just anything, and why."""

    test: str
    outcome: str
    reason: str

    def explains(self, test, outcome):
        return fnmatch.fnmatchcase(test, self.test) and fnmatch.fnmatchcase(outcome, self.outcome)


def read_known():
    lines = (pathlib.Path(__file__).parent / "known.txt").read_text().splitlines()
    return [entry(line) for line in lines if line and not line.startswith("#")]


def entry(line):
    globs, _, reason = line.partition(" ## ")
    test, _, outcome = (glob.strip().replace("[", "[[]") for glob in globs.partition(" => "))
    return Known(test, outcome or "*", reason.strip())
