#!/usr/bin/env python3
"""Has the server become slower?  Two binaries in turn on the same cases, by the processor time that the server takes.

  check.py --base BINARY --new BINARY [--seconds 300] [--report] [--allow 15] [--case gbk,n=1500000 ...]

Rounds over the cases, which binary goes first in turn, fill the time. What other work on the machine does to a run, it
adds: the loss of a case is the lesser of the median of the pairs' ratios and the ratio of the two least times. A case
that lost more than is allowed is run again, as often as before and twice as often, and fails if it still has.
--report only says. Cases are of half a second of processor time at least, where clocks that tick in 10 ms are good to 2 %.
"""
import argparse, os, signal, statistics, sys, tempfile, time

import bench

# About half a second of the server's processor time each; the first ones are what a minute has room for.
CASES = """gbk,n=1200000; wordcount,mb=40; stateful,n=4000; timers,n=600000,k=1000; combine,n=1500000,k=100000;
    shuffle-chain,n=300000; session,n=700000; side-multimap,n=15000,m=5000; stream,secs=6,rate=10000"""


class Options:
    """what bench.run wants to know"""
    fresh, arg, timeout, max_rss = True, [], 120, 6000
    settle = 0


class Case:
    def __init__(self, name):
        self.name, self.pairs, self.error = name, [], None

    def run(self, servers):
        order = servers if len(self.pairs) % 2 == 0 else servers[::-1]
        r = {s.name: bench.run(s, self.name, Options) for s in order}
        if not r["new"]["ok"]:
            self.error = str(r["new"].get("error", "wrong answer"))[:200]
        elif r["base"]["ok"]:
            self.pairs.append((r["base"]["cpu_s"], r["new"]["cpu_s"]))
            self.n = r["new"]["n"]
        print(f"{self.name:34} cpu s: " + "  ".join(f"{s} {r[s].get('cpu_s', '-')}" for s in ("base", "new")) + f"  {self.error or ''}",
              file=sys.stderr, flush=True)

    def loss(self):
        """in percent; negative is a gain"""
        if not self.pairs:
            return None
        median = statistics.median(new / base for base, new in self.pairs)
        least = min(new for _, new in self.pairs) / min(base for base, _ in self.pairs)
        return (min(median, least) - 1) * 100

    def row(self):
        if not self.pairs:
            return f"| {self.name} | - | - | - | {self.error or 'base failed'} |"
        per = [statistics.median(p[i] for p in self.pairs) / self.n * 1e6 for i in (0, 1)]
        return f"| {self.name} | {bench.f(per[0], 3)} | {bench.f(per[1], 3)} | {self.loss():+.0f} % | {self.error or len(self.pairs)} |"


def rounds(cases, servers, seconds, least, most=1000):
    """runs all cases in turn, at least so often, as long as another round fits into the time"""
    start, done = time.time(), 0
    while done < least or done < most and time.time() - start + (time.time() - start) / done < seconds:
        for c in cases:
            if not c.error:
                c.run(servers)
        done += 1
    return done


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--base", required=True)
    ap.add_argument("--new", required=True)
    ap.add_argument("--seconds", type=float, default=300)
    ap.add_argument("--allow", type=float, default=15, help="percent of processor time per element")
    ap.add_argument("--report", action="store_true", help="no failure for a loss, and one round is enough")
    ap.add_argument("--case", action="append", default=[])
    a = ap.parse_args()
    os.makedirs(bench.LOGS, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = a.case or [c.strip() for c in CASES.split(";")]
    if a.report and not a.case:
        names = names[:4]
    cases = [Case(n) for n in names]
    with tempfile.TemporaryDirectory(prefix="lintel-bench") as scratch:
        servers = [bench.Server(name, f"cmd:{binary} dev --job-port {{port}} --http-port 0 --data-dir {scratch}/{name}")
                   for name, binary in (("base", a.base), ("new", a.new))]
        try:
            done = rounds(cases, servers, a.seconds, 1 if a.report else 3)
            lost = lambda: [c for c in cases if not c.error and (c.loss() or 0) > a.allow]
            for more in (done, 2 * done):
                if lost() and not a.report:
                    print("again:", "; ".join(c.name for c in lost()), file=sys.stderr)
                    rounds(lost(), servers, 0, more)
        finally:
            for s in servers:
                s.down()
    print(f"\nProcessor time of the server, us per element, medians; load {os.getloadavg()[0]:.0f}\n")
    print("| case | base | new | loss | pairs |\n|---|---|---|---|---|")
    print("\n".join(c.row() for c in cases))
    failed = [c.name for c in cases if c.error or c in lost()]
    if failed:
        print(f"\n{'slower' if a.report else 'FAIL'} (over {a.allow:g} %) or failed: " + "; ".join(failed))
    return 0 if a.report and not any(c.error for c in cases) else bool(failed)


if __name__ == "__main__":
    sys.exit(main())
