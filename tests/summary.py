"""Read Meson's test log and print `N passed, N failed, N skipped`; exit 1 when something failed.

    summary.py LOGS STATUS        the folder with testlog.json; what `meson test` itself returned

Check prints one line a file, `100%: Checks: 4, Failures: 0, Errors: 0`: its cases are counted.  A case that finds its
fixture missing prints a line that begins with `skipped:` and returns: it counts as skipped, not as passed.  Python's
unittest closes with `Ran 5 tests` and its own sums.  Any other program counts as one test.
"""

import glob
import json
import re
import sys

CHECKS = re.compile(r"^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)$", re.M)
UNITTEST = re.compile(r"^Ran (\d+) tests? in .*\n\n\w+(?: \((.*)\))?$", re.M)


def count(test):
    """(passed, failed, skipped) of one entry of the log."""
    out = test.get("stdout", "")
    if test["result"] == "SKIP":
        return 0, 0, 1
    skipped = len(re.findall(r"^skipped: ", out, re.M))
    suites = [tuple(map(int, m)) for m in CHECKS.findall(out)]
    for ran, sums in UNITTEST.findall(test.get("stderr", "")):
        of = dict(re.findall(r"(\w+)=(\d+)", sums))
        suites.append((int(ran), int(of.get("failures", 0)), int(of.get("errors", 0))))
        skipped += int(of.get("skipped", 0))
    if not suites:
        ok = test["result"] == "OK"
        return (0, 0, skipped) if ok and skipped else (int(ok), int(not ok), 0)
    checks = sum(s[0] for s in suites)
    failed = sum(s[1] + s[2] for s in suites)
    if test["result"] != "OK":
        failed = max(failed, 1)  # every case passed, yet the program did not end well: a leak, a time-out
    return max(checks - failed - skipped, 0), failed, skipped


def main(folder, status):
    total = [0, 0, 0]
    for path in glob.glob(folder + "/testlog*.json"):
        with open(path, encoding="utf-8") as log:
            for line in log:
                test = json.loads(line)
                got = count(test)
                total = [a + b for a, b in zip(total, got)]
                if got[1]:
                    print(f"--- {test['name']}: {test['result']}\n{test.get('stdout', '')}{test.get('stderr', '')}")
                for why in re.findall(r"^(skipped: .*)", test.get("stdout", ""), re.M):
                    print(f"{test['name']}: {why}")
    if status and not total[1]:
        total[1] = 1  # Meson itself failed before or beside the tests
    print("%d passed, %d failed, %d skipped" % tuple(total))
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
