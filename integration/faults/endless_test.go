package faults

import (
	"encoding/json"
	"os/exec"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
)

// figures are metrics of the endless pipeline.
type figures struct {
	events, sums float64
	windows      float64 // of all keys
	delay        float64 // ms from a window's end to its sum, on average
}

func (s *server) lintel(result any, args ...string) {
	s.t.Helper()
	out, err := exec.Command(lintelBinary(s.t), append(args, "--endpoint", s.jobs, "--output", "json")...).Output()
	if err == nil && result != nil {
		err = json.Unmarshal(out, result)
	}
	if err != nil {
		s.t.Fatalf("lintel %v: %v\n%s", args, err, out)
	}
}

// job returns the id and state of the server's only job, if it has one.
func (s *server) job() (id, state string) {
	s.t.Helper()
	var list struct{ Jobs []struct{ ID, State string } }
	s.lintel(&list, "jobs", "list")
	if len(list.Jobs) == 0 {
		return "", ""
	}
	return list.Jobs[0].ID, list.Jobs[0].State
}

func (s *server) figures(job string) (f figures) {
	s.t.Helper()
	var list struct {
		Metrics []struct {
			Labels    map[string]string
			Committed json.RawMessage
		}
	}
	s.lintel(&list, "jobs", "metrics", job)
	for _, m := range list.Metrics {
		var delay struct{ Count, Sum float64 }
		var err error
		switch m.Labels["NAME"] {
		case "events":
			err = json.Unmarshal(m.Committed, &f.events)
		case "sums":
			err = json.Unmarshal(m.Committed, &f.sums)
		case "delay_ms":
			if err = json.Unmarshal(m.Committed, &delay); delay.Count > 0 {
				f.windows, f.delay = delay.Count, delay.Sum/delay.Count
			}
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return f
}

// A job without end goes on: its metrics are live, windows close soon after their end, and what
// it takes doesn't grow. It ends when it is drained, with all that came, or cancelled.
func TestEndlessJobs(t *testing.T) {
	const perSecond = 1000
	warm, watched := 2*time.Second, 5*time.Second
	if *long {
		warm, watched = 30*time.Second, 5*time.Minute
	}
	for _, how := range []string{"drain", "cancel"} {
		t.Run(how, func(t *testing.T) {
			s := startServer(t, t.TempDir())
			type end struct {
				out string
				err error
			}
			ended := make(chan end, 1)
			go func() {
				out, err := s.run("--case", "endless", "--n", "1000")
				ended <- end{out, err}
			}()
			var job string
			testkit.Eventually(t, time.Minute, "windows of a job that runs", func() bool {
				var state string
				job, state = s.job()
				return state == "RUNNING" && s.figures(job).windows > 0
			})
			time.Sleep(warm)
			took, before, from := s.footprint(), s.figures(job), time.Now()
			time.Sleep(watched)
			takes, after, lasted := s.footprint(), s.figures(job), time.Since(from)
			t.Logf("%+v and %+v, then %+v and %+v", took, before, takes, after)

			rate := (after.events - before.events) / lasted.Seconds()
			if rate < 0.8*perSecond || rate > 1.2*perSecond {
				t.Errorf("%.0f events a second in the metrics, want %d", rate, perSecond)
			}
			// A window's sum counts at its end, and the machine may be busy.
			if behind := after.events - after.sums; behind < 0 || behind > 4*perSecond {
				t.Errorf("windows have %.0f events, of %.0f that came", after.sums, after.events)
			}
			if after.delay > 500 {
				t.Errorf("windows come %.0f ms after their end", after.delay)
			}
			if grew := takes.mib - took.mib; grew > 16 || takes.goroutines > took.goroutines+10 || takes.files > took.files+2 {
				t.Errorf("it grows: %+v, then %+v", took, takes)
			}

			s.lintel(nil, "jobs", how, job)
			if e := <-ended; e.err != nil {
				t.Errorf("%v\n%s", e.err, e.out)
			}
			_, state := s.job()
			if want := map[string]string{"drain": "DRAINED", "cancel": "CANCELLED"}[how]; state != want {
				t.Errorf("%s after %s", state, how)
			}
			if f := s.figures(job); how == "drain" && (f.events != f.sums || f.events < after.events) {
				t.Errorf("of %.0f events windows have %.0f after drain", f.events, f.sums)
			}
		})
	}
}
