package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lintelrun/lintel/internal/testkit"
)

const weather = `2026-03-01T00:00:00Z	harbour	4.00
2026-03-01T00:00:00Z	hill	-2.00
2026-03-01T01:00:00Z	harbour	7.00
2026-03-01T01:00:00Z	hill	-1.00
2026-03-01T02:00:00Z	hill	0.50
`

const spent = `Ada: 2 orders, 19.75
Blaise: 1 orders, 40.00
Charles: 2 orders, 99.99
Dorothy: 0 orders, 0.00
customer 9: 1 orders, 1.00
`

// The word counts of textFolder, most frequent first.
const counts = "600\tround\n400\tthe\n200\tand\n"

func data(name string) string { return filepath.Join(root, "examples", "data", name) }

// textFolder makes files of known words, and one that doesn't count.
func textFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 20 {
		text := strings.Repeat("round and round, the wheel_"+fmt.Sprint(i)+" 42\r\nround the\n", 10)
		write(t, filepath.Join(dir, fmt.Sprintf("%d", i%3), fmt.Sprintf("%d.txt", i)), text)
	}
	write(t, filepath.Join(dir, "ignored.md"), "the the the")
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// checkCounts looks at what either word count printed of textFolder: 7 words in 2
// lines, ten times in each of 20 files.
func checkCounts(t *testing.T, printed string) {
	t.Helper()
	if !strings.HasPrefix(printed, counts) || !strings.Contains(printed, "1400 words in 400 lines") {
		t.Errorf("got\n%s\nwant\n%s1400 words in 400 lines ...", printed, counts)
	}
}

func TestGoLoopback(t *testing.T) {
	s := startServer(t)
	out := s.goPipeline(wordcount(t), "--input", textFolder(t), "--ext", ".txt", "--top", "3",
		"--environment_type", "LOOPBACK").ok(t)
	checkCounts(t, out.stdout)
	out = s.goPipeline(windowedavg(t), "--input", data("weather.csv"), "--environment_type", "LOOPBACK").ok(t)
	if out.stdout != weather {
		t.Errorf("got\n%s\nwant\n%s", out.stdout, weather)
	}

	var list struct {
		Jobs []struct{ ID, Name, State string }
	}
	if err := json.Unmarshal([]byte(s.lintel("jobs", "list", "--output", "json").ok(t).stdout), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Jobs) != 2 {
		t.Fatalf("jobs list tells %d jobs, want 2", len(list.Jobs))
	}
	for _, j := range list.Jobs {
		if j.State != "DONE" {
			t.Errorf("job %s is %s, want DONE", j.ID, j.State)
		}
	}
}

func TestGoProcess(t *testing.T) {
	s := startServer(t)
	out := s.goPipeline(wordcount(t), "--input", textFolder(t), "--ext", ".txt", "--top", "3",
		"--environment_type", "PROCESS", "--worker_binary", wordcount(t),
		"--environment_config", fmt.Sprintf(`{"command": %q}`, goWorker(t))).ok(t)
	checkCounts(t, out.stdout)
}

// goWorker is Beam's boot program for Go, with a scratch folder that the test removes.
func goWorker(t *testing.T) string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "worker.sh")
	text := fmt.Sprintf("#!/bin/sh\nexec %q \"$@\" --semi_persist_dir=%q\n", goBoot(t), t.TempDir())
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

func TestPythonLoopback(t *testing.T) {
	testkit.Python(t, root)
	s := startServer(t)
	out := s.pythonPipeline("wordcount.py", "--input", textFolder(t), "--ext", ".txt", "--top", "3",
		"--environment_type", "LOOPBACK").ok(t)
	checkCounts(t, out.stdout)
	out = s.pythonPipeline("join.py", "--customers", data("customers.csv"), "--orders", data("orders.csv"),
		"--environment_type", "LOOPBACK").ok(t)
	if out.stdout != spent {
		t.Errorf("got\n%s\nwant\n%s", out.stdout, spent)
	}
}

func TestPythonProcess(t *testing.T) {
	interpreter := testkit.Python(t, root)
	s := startServer(t, "SDK_BOOT="+pythonBoot(t), "SDK_PYTHON="+interpreter)
	worker := filepath.Join(root, "integration", "python", "sdk_worker.sh")
	out := s.pythonPipeline("wordcount.py", "--input", textFolder(t), "--ext", ".txt", "--top", "3",
		"--environment_type", "PROCESS", "--environment_option", "process_command="+worker).ok(t)
	checkCounts(t, out.stdout)
}

func TestGoFailureShowsUserError(t *testing.T) {
	s := startServer(t)
	bad := filepath.Join(t.TempDir(), "weather.csv")
	write(t, bad, "time,station,celsius\n2026-03-01T00:05:00Z,harbour,warm\n")
	out := s.goPipeline(windowedavg(t), "--input", bad, "--environment_type", "LOOPBACK")
	checkFailure(t, s, out, `strconv.ParseFloat: parsing`)
}

func TestPythonFailureShowsUserError(t *testing.T) {
	testkit.Python(t, root)
	s := startServer(t)
	bad := filepath.Join(t.TempDir(), "orders.csv")
	write(t, bad, "order,customer,amount\n100,1,lots\n")
	out := s.pythonPipeline("join.py", "--customers", data("customers.csv"), "--orders", bad,
		"--environment_type", "LOOPBACK")
	checkFailure(t, s, out, `could not convert string to float: 'lots'`)
}

// checkFailure wants the user's own error where the user looks: at the submitting
// program, and in what the server tells of the job.
func checkFailure(t *testing.T, s *server, out outcome, want string) {
	t.Helper()
	if out.err == nil {
		t.Fatalf("the pipeline succeeded:\n%s", out.stdout)
	}
	if !strings.Contains(out.stderr, want) {
		t.Errorf("the program's error output lacks %q:\n%s", want, out.stderr)
	}
	id := s.onlyJob("FAILED")
	if d := s.lintel("jobs", "describe", id).ok(t); !strings.Contains(d.stdout, want) {
		t.Errorf("jobs describe lacks %q:\n%s", want, d.stdout)
	}
}

// onlyJob is the id of the server's one job, which must be in the given state.
func (s *server) onlyJob(state string) string {
	s.t.Helper()
	var list struct {
		Jobs []struct{ ID, State string }
	}
	out := s.lintel("jobs", "list", "--output", "json").ok(s.t)
	if err := json.Unmarshal([]byte(out.stdout), &list); err != nil {
		s.t.Fatal(err)
	}
	if len(list.Jobs) != 1 || list.Jobs[0].State != state {
		s.t.Fatalf("want one job, %s; got %+v", state, list.Jobs)
	}
	return list.Jobs[0].ID
}
