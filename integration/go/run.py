#!/usr/bin/env python3
"""Runs the Beam Go SDK's own tests against any job endpoint.

Each top-level Go test runs in its own process (one compiled test binary per package), so a hang,
a panic or os.Exit in one test does not stop the rest. Output: results.json and a table of totals.
"""
import argparse, concurrent.futures as cf, json, os, re, shlex, signal, subprocess, sys, threading, time
HERE = os.path.dirname(os.path.abspath(__file__))

EXTERNAL = (  # packages whose tests need a service beside the runner
    "test/integration/xlang", "test/integration/transforms/", "test/integration/io/",
    "pkg/beam/io/datastoreio", "pkg/beam/io/fhirio", "pkg/beam/io/bigtableio", "pkg/beam/io/spannerio",
)
EXTERNAL_TESTS = {  # single tests in other packages
    "TestOomParDo": "Dataflow only (GCS heap dump)",
}
DRAINED = {"TestDrain"}  # their jobs go on until somebody drains them
ONE_TASK = {"TestRunner_Pipelines"}  # expect a group's keys in one bundle: one task a stage

def modcache():
    return subprocess.check_output(["go", "env", "GOMODCACHE"], text=True).strip()

def group(pkg):
    if pkg.startswith(EXTERNAL): return "external"
    if "runners/prism" in pkg: return "prism-suite"
    if pkg.startswith(("test/integration", "test/regression")): return "validates"
    return "sdk"

def tail(s, n=1800):
    return s if len(s) <= n else s[:400] + "\n...\n" + s[-(n - 400):]

def cause(out):
    pats = [r"Failed to execute job: ([\s\S]{0,600})", r"(panic: [^\n]{0,300})", r"(rpc error: [^\n]{0,300})",
            r"(job .* failed:[\s\S]{0,400})", r"(PAssert[^\n]*[\s\S]{0,300})", r"\n\s+(\w+_test\.go:\d+: [^\n]{0,400})", r"(fatal error[^\n]*)"]
    for p in pats:
        m = re.search(p, out)
        if m: return re.sub(r"\s+", " ", m.group(1)).strip()[:500]
    return re.sub(r"\s+", " ", out[-300:])

def read(p, drain):
    """Returns the output of p. With a command to drain, the job that p submits is drained after a while."""
    lines = []
    for line in p.stdout:
        lines.append(line)
        m = drain and re.search(r"Submitted job: ([\w-]+)", line)
        if m: threading.Timer(4, subprocess.run, [drain + [m.group(1)]]).start()
    return "".join(lines)

def run_one(bin_dir, binp, cwd, pkg, test, args, timeout, env, drain):
    cmd = [os.path.join(bin_dir, "test2json"), "-t", "-p", pkg, binp, "-test.v=test2json", "-test.run", "^%s$" % re.escape(test),
           "-test.timeout", "%ds" % timeout, "-test.count=1"] + args + (["--parallelism=1"] if test in ONE_TASK else [])
    t0 = time.time()
    p = subprocess.Popen(cmd, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, start_new_session=True, text=True, errors="replace")
    timed = False
    with cf.ThreadPoolExecutor(1) as reader:
        reading = reader.submit(read, p, drain if test in DRAINED else None)
        try:
            out = reading.result(timeout=timeout + 15)
        except cf.TimeoutError:
            timed = True
            os.killpg(p.pid, signal.SIGKILL)
            out = reading.result()
    p.wait()
    dur = time.time() - t0
    txt, subs, res = [], {}, None
    for line in out.splitlines():
        try: ev = json.loads(line)
        except ValueError:
            txt.append(line + "\n"); continue
        a = ev.get("Action")
        if a == "output": txt.append(ev.get("Output", ""))
        elif a in ("pass", "fail", "skip"):
            if ev.get("Test") == test: res = a
            elif ev.get("Test"): subs[ev["Test"]] = a
    txt = "".join(txt)
    if timed or re.search(r"panic: test timed out", txt): res = "hang"
    if res is None: res = "fail"
    r = dict(package=pkg, test=test, result=res, seconds=round(dur, 2), jobs=len(re.findall(r"Prepared job with id", txt)),
             states=sorted(set(re.findall(r"state: ([A-Z_]+)", txt))), subtests=subs, group=group(pkg))
    if test in EXTERNAL_TESTS: r["group"] = "external"; r["note"] = EXTERNAL_TESTS[test]
    if res == "skip":
        m = re.search(r"_?\w*\.go:\d+: (.*)", txt); r["cause"] = (m.group(1) if m else "")[:200]
    if res in ("fail", "hang"): r["cause"] = cause(txt)
    return r, txt

def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("endpoint")
    ap.add_argument("--runner", default="universal", help="a name absent from integration.CheckFilters runs with no filter: universal. portable/prism/flink/spark apply a filter list")
    ap.add_argument("--env", default="LOOPBACK"); ap.add_argument("--env-config", default="")
    ap.add_argument("--timeout", type=int, default=60); ap.add_argument("--jobs", type=int, default=1)
    ap.add_argument("--bin", required=True, help="folder of the test binaries, made by build.sh")
    ap.add_argument("--out", required=True, help="folder for the results")
    ap.add_argument("--packages", default="")
    ap.add_argument("--run", default="", help="regexp of test names"); ap.add_argument("--all", action="store_true", help="also report tests which never prepare a job")
    ap.add_argument("--external", action="store_true", help="also run the packages which need other services")
    ap.add_argument("--flag", action="append", default=[], help="extra flag for the test binary, e.g. --flag=--expansion_addr=test:localhost:8097")
    ap.add_argument("--skip-list", default=os.path.join(HERE, "nopipeline.txt"), help="pkg<TAB>test known not to prepare a job (written by --learn)")
    ap.add_argument("--drain", default="", help="command that drains the job whose id it is given, for tests that need it")
    ap.add_argument("--learn", action="store_true")
    o = ap.parse_args()
    o.out = os.path.abspath(o.out); os.makedirs(os.path.join(o.out, "logs"), exist_ok=True)
    src = os.path.join(modcache(), "github.com/apache/beam/sdks/v2@v2.77.0/go")
    args = ["--runner=" + o.runner, "--endpoint=" + o.endpoint, "--environment_type=" + o.env] + o.flag
    if o.env_config: args.append("--environment_config=" + o.env_config)
    nop = set()
    if not o.learn and not o.all and os.path.exists(o.skip_list):
        nop = set(tuple(l.rstrip("\n").split("\t")) for l in open(o.skip_list))
    todo = []
    for pkg in [l.strip() for l in open(os.path.join(HERE, "packages.txt")).readlines() + (open(os.path.join(HERE, "packages-external.txt")).readlines() if o.external else []) if l.strip() and not l.startswith("#")]:
        if o.packages and not re.search(o.packages, pkg): continue
        if group(pkg) == "external" and not o.external: continue
        b = os.path.join(o.bin, pkg.replace("/", "_") + ".test")
        if not os.path.exists(b): print("no binary", pkg, file=sys.stderr); continue
        ls = subprocess.run([b, "-test.list", "^Test"], cwd=os.path.join(src, pkg), text=True, capture_output=True, timeout=60)
        for t in re.findall(r"^(Test\w+)$", ls.stdout, re.M):
            if o.run and not re.search(o.run, t): continue
            if (pkg, t) in nop: continue
            if t in EXTERNAL_TESTS and not o.external: continue
            if t in DRAINED and not o.drain: continue
            todo.append((b, os.path.join(src, pkg), pkg, t))
    env = dict(os.environ); env["TMPDIR"] = os.path.join(o.out, "tmp"); os.makedirs(env["TMPDIR"], exist_ok=True)
    res = []
    def work(x):
        r, txt = run_one(o.bin, *x, args, o.timeout, env, shlex.split(o.drain))
        if r["result"] != "pass" or o.learn:
            with open(os.path.join(o.out, "logs", x[2].replace("/", "_") + "." + x[3] + ".log"), "w") as f: f.write(txt)
        return r
    with cf.ThreadPoolExecutor(o.jobs) as ex:
        for r in ex.map(work, todo):
            res.append(r)
            print("%-5s %6.1fs jobs=%d %s.%s %s" % (r["result"], r["seconds"], r["jobs"], r["package"], r["test"], r.get("cause", "")[:160]), flush=True)
    if o.learn:
        with open(o.skip_list, "w") as f:
            for r in res:
                if r["jobs"] == 0 and r["result"] == "pass": f.write("%s\t%s\n" % (r["package"], r["test"]))
    tot = {}
    for r in res:
        g = r["group"] if (r["jobs"] or r["result"] != "pass") else r["group"] + "/no-job"
        tot.setdefault(g, {}).setdefault(r["result"], 0); tot[g][r["result"]] += 1
    doc = dict(endpoint=o.endpoint, runner=o.runner, env=o.env, totals=tot, when=time.strftime("%FT%TZ", time.gmtime()), tests=res)
    json.dump(doc, open(os.path.join(o.out, "results.json"), "w"), indent=1)
    print(json.dumps(tot, indent=1))
main()
