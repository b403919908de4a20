#!/usr/bin/env python3
"""Side-by-side benchmark of Beam runners (job endpoints) on the pipelines of pipelines/.

  bench.py --server prism=auto --server flink=auto --repeat 3 --case startup --case gbk,n=100000
  bench.py --server new=127.0.0.1:9000,PID --server prism=auto --set medium --repeat 5 --json out.jsonl
  bench.py --table out.jsonl              (only print the tables of an earlier run)

--server NAME=HOST:PORT,PID   a running job server (PID for its CPU and memory, with all its children)
--server NAME=auto            prism or flink: start it here, restart it after a failure
--server NAME=cmd:COMMAND     start COMMAND ({port} and {server}, its name, are replaced), wait for the port, stop it at the end
--server plain=plain          the same answer in plain Go without Beam
--variant NAME=FLAG           the first server once more, as NAME and with one more flag for the pipelines; without FLAG as they are
--fresh                       restart managed servers before each run (peak RSS and leaks of one run only)
Runs are interleaved: for each case, each repeat, each server in turn (the order rotates).
A run that fails, answers wrongly, takes over --timeout or whose server grows over --max-rss is a failure.
"""
import argparse, json, os, resource, signal, socket, statistics, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.environ.get("LINTEL_CACHE", os.path.join(HERE, "..", "..", ".cache"))
BIN = os.path.join(CACHE, "bin", "bench")
LOGS = os.path.join(CACHE, "results", "bench")
TICK = os.sysconf("SC_CLK_TCK")
AUTO = {
    "prism": "{cache}/bin/prism --job_port={port} --serve_http=false --log_level=warn",
    # On two cores Prism spins in bundles without output; more OS threads hide it, so this is the fairer rival.
    "prism16": "env GOMAXPROCS=16 {cache}/bin/prism --job_port={port} --serve_http=false --log_level=warn",
    "flink": "exec_flink",
}
SETS = {
    "bounded": """startup; wordcount,mb=5; gbk,n=50000; combine,n=100000,k=10000; shuffle-chain,n=50000; fixed,n=50000;
        side-iter,n=100,m=5000; side-multimap,n=2000,m=1000; sdf,n=200000""",
    "smoke": """startup; wordcount,mb=0.5; wordcount-gbk,mb=0.5; gbk,n=5000; gbk-hot,n=5000; shuffle-chain,n=5000; combine-hot,n=5000;
        combine,n=5000; fixed,n=5000; session,n=5000; side-iter,n=50,m=1000; side-multimap,n=1000,m=500; stateful,n=2000,k=100;
        stateful-bag,n=2000,k=100; timers,n=2000,k=50,evsecs=100; sdf,n=10000; nexmark-q0,n=5000; nexmark-q1,n=5000; nexmark-q2,n=50000;
        nexmark-q3,n=50000; nexmark-q5,n=200000; nexmark-q7,n=20000; nexmark-q8,n=50000; stream,secs=5; stream-pass,secs=5""",
    "medium": """startup; wordcount,mb=20; wordcount-gbk,mb=5; gbk,n=200000; gbk-hot,n=200000; shuffle-chain,n=100000; combine-hot,n=1000000;
        combine,n=500000,k=50000; fixed,n=200000; session,n=100000; side-iter,n=200,m=10000; side-multimap,n=5000,m=2000; stateful,n=20000;
        stateful-bag,n=20000; timers,n=20000,k=100,evsecs=600; sdf,n=1000000; nexmark-q0,n=200000; nexmark-q1,n=200000; nexmark-q2,n=500000;
        nexmark-q3,n=500000; nexmark-q5,n=500000; nexmark-q7,n=200000; nexmark-q8,n=500000; stream,secs=20,rate=1000; stream,secs=20,rate=10000;
        stream-pass,secs=20,rate=1000; stream-pass,secs=20,rate=10000""",
    "checkpoints": """stateful,n=60000; stateful,n=60000,k=20000; stateful-bag,n=60000; stream,secs=20,rate=1000; stream,secs=20,rate=10000;
        stream-pass,secs=20,rate=1000""",
}


def sh_children(pid):
    """pid and all of its descendants"""
    kids, out = {}, []
    for d in os.listdir("/proc"):
        if d.isdigit():
            try:
                s = open(f"/proc/{d}/stat").read()
                kids.setdefault(int(s.rsplit(")", 1)[1].split()[1]), []).append(int(d))
            except OSError:
                pass
    todo = [pid]
    while todo:
        p = todo.pop()
        out.append(p)
        todo += kids.get(p, [])
    return out


def cpu_s(pid):
    t = 0
    for p in sh_children(pid):
        try:
            f = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()
            t += int(f[11]) + int(f[12]) + (int(f[13]) + int(f[14]) if p == pid else 0)
        except OSError:
            pass
    return t / TICK


class Harnesses:
    """Processor time of the harnesses that a server starts: all its descendants, those that end meanwhile included."""

    def __init__(self, pid):
        self.pid, self.ticks = pid, {}
        self.look()
        self.before = dict(self.ticks)

    def look(self):
        for p in sh_children(self.pid)[1:]:
            try:
                f = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()
                self.ticks[p] = int(f[11]) + int(f[12])
            except OSError:
                pass

    def cpu_s(self):
        return (sum(self.ticks.values()) - sum(self.before.values())) / TICK


def own_cpu_s(pid):
    """of the process alone"""
    f = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(f[11]) + int(f[12])) / TICK


def own_rss_mb(pid, what="VmRSS"):
    """of the process alone"""
    try:
        return sum(int(l.split()[1]) for l in open(f"/proc/{pid}/status") if l.startswith(what + ":")) / 1024
    except OSError:
        return 0


def rss_mb(pid, what="VmRSS"):
    return sum(own_rss_mb(p, what) for p in sh_children(pid))


def reset_peak(pid):
    for p in sh_children(pid):
        try:
            open(f"/proc/{p}/clear_refs", "w").write("5")
        except OSError:
            pass


def free_port():
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    p = s.getsockname()[1]
    s.close()
    return p


class Server:
    def __init__(self, name, spec, args=()):
        self.name, self.pid, self.proc, self.endpoint, self.cmd = name, None, None, None, None
        self.args = list(args)  # for the pipelines
        self.plain = spec == "plain"
        if spec == "auto":
            self.cmd = AUTO[name if name in AUTO else "flink" if "flink" in name else "prism"]
        elif spec.startswith("cmd:"):
            self.cmd = spec[4:]
        elif not self.plain:
            a, _, p = spec.partition(",")
            self.endpoint, self.pid = a, int(p) if p else None

    def up(self):
        if self.plain or not self.cmd:
            return
        if self.pid and os.path.exists(f"/proc/{self.pid}") and (not self.proc or self.proc.poll() is None):
            return
        port = free_port()
        logf = open(os.path.join(LOGS, f"server-{self.name}.log"), "ab")
        self.endpoint = f"127.0.0.1:{port}"
        if self.cmd == "exec_flink":
            env = dict(os.environ, HEAP=os.environ.get("HEAP", "3g"))
            o = subprocess.run([os.environ.get("FLINK_START", os.path.join(HERE, "flink", "start.sh")), str(port)], capture_output=True, text=True, env=env)
            if "READY" not in o.stdout:
                raise RuntimeError("flink did not start: " + o.stdout[-500:])
            self.pid = int(o.stdout.split("pid=")[1].split()[0])
            self.endpoint = f"localhost:{port}"
            return
        self.proc = subprocess.Popen(["bash", "-c", "exec " + self.cmd.replace("{port}", str(port)).replace("{server}", self.name).replace("{cache}", CACHE)], stdout=logf, stderr=logf, start_new_session=True)
        self.pid = self.proc.pid
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"{self.name} does not listen on {port}")

    def down(self):
        if self.cmd and self.pid:
            for p in reversed(sh_children(self.pid)):
                try:
                    os.kill(p, signal.SIGKILL)
                except OSError:
                    pass
            if self.proc:
                self.proc.wait()
            else:
                for _ in range(100):
                    if not os.path.exists(f"/proc/{self.pid}"):
                        break
                    time.sleep(0.05)
            self.pid = self.proc = None


def program(name):
    """the command that runs a pipeline: by its name's beginning, of the Java or Python SDK, else of the Go SDK"""
    if name.startswith("java-"):
        build = os.path.join(CACHE, "bench-java")
        classes = build + "/classes:" + open(build + "/classpath").read().strip()
        return ["java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "--add-opens=java.base/java.lang=ALL-UNNAMED",
                "-cp", classes, "lintel.bench.Bench", f"--staged={build}/staged.txt"]
    if name.startswith("python-"):
        return [os.environ["SDK_PYTHON"], os.path.join(HERE, "python", "wordcount.py"), "--worker=" + os.path.join(HERE, "..", "python", "sdk_worker.sh")]
    return [BIN]


def run(srv, case, a):
    name, _, rest = case.partition(",")
    flags = ["--data=" + os.path.join(CACHE, "data")] + [f"--{x}" for x in rest.split(",") if x]
    args = program(name) + [f"--pipeline={name}"] + flags
    starts_harnesses = name.startswith("python-")
    if starts_harnesses:  # on the text that the Go program makes
        subprocess.run([BIN, "--pipeline=wordcount", "--plain"] + flags, check=True, stdout=subprocess.DEVNULL)
    r = {"server": srv.name, "case": case, "pipeline": name, "ok": False, "t": time.time()}
    if srv.plain:
        args.append("--plain")
    else:
        if a.fresh:
            srv.down()
        srv.up()
        if a.settle:  # the first job of a process is not what this is about
            subprocess.run([BIN, "--pipeline=startup", f"--endpoint={srv.endpoint}", "--environment_type=LOOPBACK"], stdout=subprocess.DEVNULL)
        args += [f"--endpoint={srv.endpoint}"] + ([] if starts_harnesses else ["--environment_type=LOOPBACK"]) + a.arg + srv.args
    pid = srv.pid if not srv.plain else None
    if pid:
        reset_peak(pid)
        harnesses = Harnesses(pid) if starts_harnesses else None
        cpu = own_cpu_s if starts_harnesses else cpu_s
        rss = own_rss_mb if starts_harnesses else rss_mb
        c0, m0 = cpu(pid), rss(pid)
    t0, peak, why = time.time(), 0, None
    p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    n = 0
    while True:
        try:
            out, err = p.communicate(timeout=0.1)
            break
        except subprocess.TimeoutExpired:
            n += 1
            if pid and harnesses:
                harnesses.look()
            if pid and n % 3 == 0:
                peak = max(peak, rss(pid))
                if peak > a.max_rss:
                    why = f"server over {a.max_rss} MB"
                elif not os.path.exists(f"/proc/{pid}"):
                    why = "server died"
            if time.time() - t0 > a.timeout:
                why = f"timeout {a.timeout} s"
            if why:
                p.kill()
                out, err = p.communicate()
                break
    try:
        r.update(json.loads(out.strip().splitlines()[-1]))
    except Exception:
        r["error"] = (err or "no output")[-400:]
    if pid:
        if os.path.exists(f"/proc/{pid}"):
            r["cpu_s"] = round(cpu(pid) - c0, 3)
            if a.settle:
                time.sleep(a.settle)
                r["settled_mb"] = round(rss(pid))
            if harnesses:
                harnesses.look()
                r["harness_cpu_s"] = round(harnesses.cpu_s(), 3)
            r["rss_mb"] = round(max(peak, rss(pid, "VmHWM")))
            r["rss0_mb"] = round(m0)
        else:
            why, r["rss_mb"] = why or "server died", round(peak)
    if why:
        r["ok"], r["error"] = False, why
        r.setdefault("seconds", round(time.time() - t0, 2))
    if not r["ok"]:
        srv.down()  # a managed server starts afresh
    return r


def med(v):
    v = [x for x in v if x is not None]
    return statistics.median(v) if v else None


def f(x, d=2):
    if x is None:
        return "-"
    if isinstance(x, str):
        return x
    if x >= 1000:
        return f"{x:,.0f}"
    return f"{x:.{d}f}" if x < 100 else f"{x:.0f}"


def tables(rs):
    servers = list(dict.fromkeys(r["server"] for r in rs))
    cases = list(dict.fromkeys(r["case"] for r in rs))
    g = {}
    for r in rs:
        g.setdefault((r["case"], r["server"]), []).append(r)
    print("\n| case | " + " | ".join(f"{s}: s | el/s | runner CPU s | CPU us/el | peak RSS MB | sdk CPU s" for s in servers) + " |")
    print("|---" * (1 + 6 * len(servers)) + "|")
    for c in cases:
        row = [c]
        for s in servers:
            v = g.get((c, s), [])
            ok = [r for r in v if r["ok"]]
            if not ok:
                row += [("FAIL " + str(v[0].get("error", ""))[:60].replace("\n", " ").replace("|", "/")) if v else "-", "", "", "", f(med([r.get("rss_mb") for r in v]), 0), ""]
                continue
            n = ok[0]["n"]
            cp = med([r.get("cpu_s") for r in ok])
            fails = f" ({len(v)-len(ok)}/{len(v)} failed)" if len(ok) < len(v) else ""
            row += [f(med([r["seconds"] for r in ok])) + fails, f(med([r["elements_per_s"] for r in ok]), 0), f(cp), f(cp / n * 1e6 if cp is not None else None),
                    f(med([r.get("rss_mb") for r in ok]), 0), f(med([r.get("sdk_cpu_s") for r in ok]))]
        print("| " + " | ".join(row) + " |")
    L = [(c, s, [r for r in g.get((c, s), []) if r["ok"] and "p50_ms" in r]) for c in cases for s in servers]
    if any(v for _, _, v in L):
        print("\n| latency, ms | server | p50 | p90 | p99 | max |\n|---|---|---|---|---|---|")
        for c, s, v in L:
            if v:
                print(f"| {c} | {s} | " + " | ".join(f(med([r[k] for r in v])) for k in ("p50_ms", "p90_ms", "p99_ms", "max_ms")) + " |")
    H = [(c, s, [r for r in g.get((c, s), []) if r["ok"] and "harness_cpu_s" in r]) for c in cases for s in servers]
    if any(v for _, _, v in H):
        print("\n| harnesses that the runner starts | server | their CPU s | the runner's, % of it |\n|---|---|---|---|")
        for c, s, v in H:
            if v:
                print(f"| {c} | {s} | {f(med([r['harness_cpu_s'] for r in v]))} | {f(med([100 * r['cpu_s'] / r['harness_cpu_s'] for r in v]))} |")
    M = [(c, s, [r for r in g.get((c, s), []) if r["ok"] and "settled_mb" in r]) for c in cases for s in servers]
    if any(v for _, _, v in M):
        print("\n| memory, MB | server | before | peak | after |\n|---|---|---|---|---|")
        for c, s, v in M:
            if v:
                print(f"| {c} | {s} | " + " | ".join(f(med([r[k] for r in v]), 0) for k in ("rss0_mb", "rss_mb", "settled_mb")) + " |")
    if len(servers) > 1:
        a = servers[0]
        print(f"\nRatios to {a} (over 1: {a} is better), medians of paired runs:")
        print("| case | " + " | ".join(f"{s}: time | CPU | RSS | p99" for s in servers[1:]) + " |\n" + "|---" * (1 + 4 * (len(servers) - 1)) + "|")
        for c in cases:
            row = [c]
            for s in servers[1:]:
                pairs = [(x, y) for x, y in zip(g.get((c, a), []), g.get((c, s), [])) if x["ok"] and y["ok"]]
                for k in ("seconds", "cpu_s", "rss_mb", "p99_ms"):
                    q = [y[k] / x[k] for x, y in pairs if x.get(k) and y.get(k)]
                    row.append(f(med(q)) if q else "-")
            print("| " + " | ".join(row) + " |")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--server", action="append", default=[])
    ap.add_argument("--variant", action="append", default=[], metavar="NAME=FLAG", help="e.g. every-second=--checkpoint_interval=1s")
    ap.add_argument("--case", action="append", default=[], help="PIPELINE[,flag=value...]")
    ap.add_argument("--set", choices=SETS)
    ap.add_argument("--only", help="of the set, the cases whose name has this")
    ap.add_argument("--scale", type=int, action="append", default=[], help="run each case also at n (mb) times this")
    ap.add_argument("--repeat", type=int, default=3)
    ap.add_argument("--timeout", type=float, default=120)
    ap.add_argument("--max-rss", type=float, default=6000, help="MB")
    ap.add_argument("--fresh", action="store_true")
    ap.add_argument("--settle", type=float, default=0, help="seconds to wait after a run, and tell the memory that is left")
    ap.add_argument("--arg", action="append", default=[], help="more flags for the pipelines, e.g. --arg=--experiments=...")
    ap.add_argument("--warm", type=int, default=1, help="startup runs per server before measuring (JVM)")
    ap.add_argument("--json")
    ap.add_argument("--table")
    a = ap.parse_args()
    if a.table:
        return tables([json.loads(l) for l in open(a.table)])
    os.makedirs(LOGS, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are stopped then, too
    servers = [Server(*s.split("=", 1)) for s in a.server]
    if a.variant:
        spec = a.server[0].split("=", 1)[1]
        servers[:1] = [Server(name, spec, [flag] if flag else []) for name, _, flag in (v.partition("=") for v in a.variant)]
    cases = a.case + [c.strip().replace("\n", "").replace(" ", "") for c in (SETS[a.set].split(";") if a.set else []) if not a.only or a.only in c]
    if a.scale:
        new = []
        for c in cases:
            for k in a.scale:
                p = c.split(",")
                for i, x in enumerate(p):
                    if x.startswith(("n=", "mb=")):
                        key, v = x.split("=")
                        v = float(v) * k
                        p[i] = f"{key}={v:g}" if key == "mb" else f"{key}={int(v)}"
                new.append(",".join(p))
        cases = new
    out = open(a.json, "a") if a.json else None
    rs = []
    dead = set()
    try:
        for s in servers:
            for _ in range(0 if s.plain or a.fresh else a.warm):
                run(s, "startup", a)
        for c in cases:
            for i in range(a.repeat):
                k = i % len(servers)
                for s in servers[k:] + servers[:k]:
                    if (s.name, c) in dead:
                        continue
                    r = run(s, c, a)
                    rs.append(r)
                    if not r["ok"] and i == 0:
                        dead.add((s.name, c))  # one failure at the first try is enough
                    print(f"{r['server']:8} {c:44} {'ok ' if r['ok'] else 'FAIL'} {f(r.get('seconds'))} s  {f(r.get('elements_per_s'),0)}/s  cpu {f(r.get('cpu_s'))}  rss {f(r.get('rss_mb'),0)}  {str(r.get('error',''))[:200]}", file=sys.stderr, flush=True)
                    if out:
                        out.write(json.dumps(r) + "\n")
                        out.flush()
    finally:
        for s in servers:
            s.down()
    tables(rs)
    # The exit status speaks of the first server, ours: rivals may fail.
    return 1 if any(not r["ok"] for r in rs if r["server"] == servers[0].name) else 0


if __name__ == "__main__":
    sys.exit(main())
