package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/lintelrun/lintel/internal/testkit"
)

// patient is a machine to be examined: its PATH has the tools that a test writes, no Docker
// engine answers, and ports are free.
type patient struct {
	*testing.T
	path, data string
	args       []string
}

func newPatient(t *testing.T) *patient {
	p := &patient{T: t, path: t.TempDir(), data: filepath.Join(t.TempDir(), "below", "data")}
	t.Setenv("PATH", p.path)
	t.Setenv("DOCKER_HOST", "unix:///no/engine.sock")
	p.args = []string{"doctor", "--output=json", "--job-port=0", "--http-port=0", "--data-dir=" + p.data}
	return p
}

// tool puts a program into PATH, which is a script of the shell and has no other programs.
func (p *patient) tool(name, script string) {
	p.Helper()
	if err := os.WriteFile(filepath.Join(p.path, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		p.Fatal(err)
	}
}

// examine runs lintel doctor with further flags.
func (p *patient) examine(args ...string) (findings map[string]finding, code int) {
	p.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetArgs(append(p.args[:len(p.args):len(p.args)], args...))
	err := root.ExecuteContext(p.Context())
	var result struct {
		OK     bool
		Checks []finding
	}
	if e := json.Unmarshal(out.Bytes(), &result); e != nil {
		p.Fatalf("%v in %s (%v)", e, &out, err)
	}
	if result.OK != (err == nil) {
		p.Errorf("ok is %v, and the command ends with %v", result.OK, err)
	}
	findings = map[string]finding{}
	for _, f := range result.Checks {
		findings[f.Name] = f
		if f.Meaning == "" || f.Found == "" || (f.Status == standingOK) != (f.Advice == "") {
			p.Errorf("not a whole finding: %+v", f)
		}
		if f.Status == standingFailed && (err == nil || !strings.Contains(err.Error(), f.Name)) {
			p.Errorf("%s failed, and the command ends with %v", f.Name, err)
		}
	}
	return findings, codeOf(err)
}

func (p *patient) want(f finding, s standing, found string) {
	p.Helper()
	if f.Status != s || !strings.Contains(f.Found, found) {
		p.Errorf("%s: %s, %q; want %s, %q", f.Name, f.Status, f.Found, s, found)
	}
}

var optional = []string{"Go", "Python", "Java", "Maven", "Node", "npm", "Docker"}

func TestDoctorWithoutAnySDK(t *testing.T) {
	testkit.Leaks(t)
	p := newPatient(t)
	found, code := p.examine()
	if code != exitOK {
		t.Errorf("exit code %d though only tools of SDKs are missing: %v", code, found)
	}
	for _, name := range optional {
		if f := found[name]; f.Status != standingMissing || !strings.HasPrefix(f.Meaning, "only for ") {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if _, err := os.Stat(filepath.Dir(p.data)); !os.IsNotExist(err) {
		t.Errorf("it has made the data directory: %v", err)
	}
}

func TestDoctorFindsTools(t *testing.T) {
	testkit.Leaks(t)
	p := newPatient(t)
	p.tool("go", `[ "$GOTOOLCHAIN" = local ] && echo "go version go1.99 plan9/mips"`)
	p.tool("java", `echo "Picked up JAVA_TOOL_OPTIONS: -Xmx1g" >&2; echo 'openjdk version "21.0.1"' >&2; echo more >&2`)
	p.tool("mvn", `printf '\033[1mApache Maven 3.9.9\033[m\nMaven home: /x\n'`)
	p.tool("node", `echo v22.1.0`)
	p.tool("npm", `echo "no such module" >&2; exit 3`)
	p.tool("python3", `echo a warning; echo 3.12.4; echo yes; echo "beam 2.77.0"`)
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.45")
		if strings.HasSuffix(r.URL.Path, "/version") {
			fmt.Fprint(w, `{"Version":"29.1.2"}`)
		}
	}))
	defer engine.Close()
	t.Setenv("DOCKER_HOST", "tcp://"+engine.Listener.Addr().String())
	found, _ := p.examine()
	p.want(found["Go"], standingOK, "go1.99")
	p.want(found["Java"], standingOK, `openjdk version "21.0.1"`)
	if f := found["Maven"]; f.Found != "Apache Maven 3.9.9" {
		t.Errorf("Maven: %q", f.Found)
	}
	p.want(found["Node"], standingOK, "v22.1.0")
	p.want(found["npm"], standingMissing, "does not run: exit status 3: no such module")
	p.want(found["Python"], standingOK, "Python 3.12.4")
	p.want(found["Python venv"], standingOK, "")
	p.want(found["Python Beam"], standingOK, "apache_beam 2.77.0")
	p.want(found["Docker"], standingOK, "engine 29.1.2")
}

func TestDoctorFindsLessThanAWholePython(t *testing.T) {
	testkit.Leaks(t)
	p := newPatient(t)
	p.tool("python", `echo 3.11.0; echo no; echo "ModuleNotFoundError: No module named 'apache_beam'"`)
	found, code := p.examine()
	p.want(found["Python"], standingOK, "3.11.0")
	p.want(found["Python venv"], standingMissing, "ensurepip")
	p.want(found["Python Beam"], standingMissing, "No module named 'apache_beam'")
	if !strings.Contains(found["Python Beam"].Advice, "pip install apache-beam") || code != exitOK {
		t.Errorf("exit code %d, advice %q", code, found["Python Beam"].Advice)
	}
	for _, script := range []string{"echo 2.7.18; echo no; echo ImportError", "echo hello", "true"} {
		p.tool("python", script)
		found, _ = p.examine()
		p.want(found["Python"], standingMissing, "")
	}
}

func TestDoctorLooksAtPorts(t *testing.T) {
	testkit.Leaks(t)
	p := newPatient(t)
	s, err := startServer(serverConfig{bind: "127.0.0.1", dataDir: t.TempDir(), log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stopWithin(patience)
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	at := func(flag, address string) string {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		return "--" + flag + "-port=" + port
	}
	httpOther, jobOther := at("http", other.Listener.Addr().String()), at("job", other.Listener.Addr().String())

	found, code := p.examine(at("job", s.jobAddress), at("http", s.httpAddress))
	p.want(found["HTTP port"], standingOK, "is held by lintel "+readBuild().Version)
	p.want(found["job port"], standingOK, "by the Job API of that server")
	if code != exitOK {
		t.Errorf("exit code %d though a server runs", code)
	}
	found, code = p.examine(jobOther, httpOther)
	p.want(found["HTTP port"], standingFailed, "something that is no lintel")
	p.want(found["job port"], standingFailed, "something that is no Beam job server")
	if code != exitFailure {
		t.Errorf("exit code %d though others hold the ports", code)
	}
	found, _ = p.examine(at("job", s.jobAddress))
	p.want(found["job port"], standingFailed, "a Beam job server; no lintel answers at the HTTP port")
	found, _ = p.examine("--job-port=70000")
	p.want(found["job port"], standingFailed, "cannot be used")
}

// What holds a port may accept connections and never say a word.
func TestDoctorAsksSilentPortsNotForLong(t *testing.T) {
	testkit.Leaks(t)
	p := newPatient(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	port := strconv.Itoa(silent.Addr().(*net.TCPAddr).Port)
	found, _ := p.examine("--job-port="+port, "--http-port="+port)
	p.want(found["HTTP port"], standingFailed, "no lintel")
	p.want(found["job port"], standingFailed, "no Beam job server")
}

func TestDoctorLooksAtDirectories(t *testing.T) {
	testkit.Leaks(t)
	p := newPatient(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	found, code := p.examine("--data-dir=" + file)
	p.want(found["data directory"], standingFailed, file+" is no directory")
	if code != exitFailure {
		t.Errorf("exit code %d", code)
	}
	found, _ = p.examine("--data-dir=" + filepath.Join(file, "below"))
	p.want(found["data directory"], standingFailed, file)
	here := t.TempDir()
	found, _ = p.examine("--data-dir=" + here)
	if f := found["data directory"]; !strings.Contains(f.Found, here+" is writable and has ") {
		t.Errorf("data directory: %+v", f)
	}
	if entries, err := os.ReadDir(here); err != nil || len(entries) > 0 {
		t.Errorf("left in the data directory: %v, %v", entries, err)
	}
	t.Setenv("TMPDIR", file)
	found, _ = p.examine("--data-dir=" + here)
	p.want(found["temporary space"], standingFailed, file+" is no directory")
}

func TestDoctorComparesMemory(t *testing.T) {
	const machine = "MemFree: 1 kB\nMemTotal:  4194304 kB\n"
	for name, c := range map[string]struct {
		groups map[string]string
		budget size
		want   standing
		found  string
	}{
		"no files at all":    {nil, 0, standingOK, "no limit found"},
		"a machine's":        {map[string]string{"proc/meminfo": machine}, 0, standingOK, "4096 MiB by this machine, the budget of jobs is 512 MiB"},
		"a budget too large": {map[string]string{"proc/meminfo": machine}, 5 << 30, standingFailed, "4096 MiB by this machine"},
		"version 2": {map[string]string{"proc/meminfo": machine, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "629145600\n"}, 0, standingWarning, "600 MiB by the control group's limit in /sys/fs/cgroup/a/memory.max"},
		"version 2 in a container": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "268435456\n"}, 0, standingFailed, "256 MiB"},
		"version 1": {map[string]string{"proc/meminfo": machine, "proc/self/cgroup": "5:cpu,memory:/x\n3:pids:/y\nnonsense\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n"}, 0, standingOK, "2048 MiB by the control group"},
		"nonsense": {map[string]string{"proc/meminfo": "MemTotal: much", "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "-3"}, 0, standingOK, "no limit found"},
	} {
		root := fstest.MapFS{}
		for path, text := range c.groups {
			root[path] = &fstest.MapFile{Data: []byte(text)}
		}
		f := (&doctor{memory: c.budget}).memoryWithin(root)
		if f.Status != c.want || !strings.Contains(f.Found, c.found) || (f.Status == standingOK) != (f.Advice == "") {
			t.Errorf("%s: %+v; want %s, %q", name, f, c.want, c.found)
		}
	}
}

func TestDoctorAsText(t *testing.T) {
	var out bytes.Buffer
	findings := []finding{
		{"Go", standingOK, "go1.26", "only for Go\npipelines", ""},
		{"job port", standingFailed, "127.0.0.1:8099 is held", "SDKs submit jobs there", "stop what holds it"},
	}
	if err := report(&out, "text", findings); err != nil {
		t.Fatal(err)
	}
	want := `ok       Go              go1.26; only for Go pipelines
failed   job port        127.0.0.1:8099 is held; SDKs submit jobs there
                         stop what holds it
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
	if err := verdict(findings); codeOf(err) != exitFailure || !strings.Contains(messageOf(err), "job port") {
		t.Errorf("verdict: %v", err)
	}
}
