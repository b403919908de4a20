package rest

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/lintelrun/lintel/web/jobview"
)

// defaultTail and maxTail bound how many log entries one answer holds.
const (
	defaultTail = 1000
	maxTail     = 10_000
)

// Every list is wrapped in an object, so that later versions can add to it.
type (
	jobList struct {
		Jobs []jobview.Job `json:"jobs"`
	}
	checkpointList struct {
		Checkpoints []jobview.Checkpoint `json:"checkpoints"`
	}
	metricList struct {
		Metrics []jobview.Metric `json:"metrics"`
	}
	logList struct {
		Entries []jobview.LogEntry `json:"entries"`
		// Skipped counts older entries that the limit left out.
		Skipped int `json:"skipped"`
	}
	// steered says what became of a job.
	steered struct {
		ID    string `json:"id"`
		State string `json:"state"`
	}
)

func (c Config) list(w http.ResponseWriter, r *http.Request) {
	jobs, err := c.Jobs.List(r.Context())
	if err != nil {
		c.fail(w, r, err)
		return
	}
	c.json(w, jobList{Jobs: append([]jobview.Job{}, jobs...)})
}

func (c Config) describe(w http.ResponseWriter, r *http.Request) {
	d, err := c.Jobs.Describe(r.Context(), r.PathValue("id"))
	if err != nil {
		c.fail(w, r, err)
		return
	}
	c.json(w, d)
}

func (c Config) metrics(w http.ResponseWriter, r *http.Request) {
	ms, err := c.Jobs.Metrics(r.Context(), r.PathValue("id"))
	if err != nil {
		c.fail(w, r, err)
		return
	}
	c.json(w, metricList{Metrics: append([]jobview.Metric{}, ms...)})
}

func (c Config) checkpoints(w http.ResponseWriter, r *http.Request) {
	list, err := c.Jobs.Checkpoints(r.Context(), r.PathValue("id"))
	if err != nil {
		c.fail(w, r, err)
		return
	}
	c.json(w, checkpointList{Checkpoints: append([]jobview.Checkpoint{}, list...)})
}

func (c Config) cancel(w http.ResponseWriter, r *http.Request) { c.steer(w, r, c.Jobs.Cancel) }

func (c Config) drain(w http.ResponseWriter, r *http.Request) { c.steer(w, r, c.Jobs.Drain) }

func (c Config) steer(w http.ResponseWriter, r *http.Request, do func(context.Context, string) (string, error)) {
	id := r.PathValue("id")
	state, err := do(r.Context(), id)
	if err != nil {
		c.fail(w, r, err)
		return
	}
	c.json(w, steered{ID: id, State: state})
}

// logs answers with the newest entries of ?level= (info) and above, ?tail= (1000) at most.
func (c Config) logs(w http.ResponseWriter, r *http.Request) {
	least, tail, err := logQuery(r)
	if err != nil {
		c.problem(w, http.StatusBadRequest, err.Error())
		return
	}
	var kept []jobview.LogEntry
	n := 0
	err = c.Jobs.Logs(r.Context(), r.PathValue("id"), func(e jobview.LogEntry) error {
		if e.Level < least {
			return nil
		}
		if n++; len(kept) < tail {
			kept = append(kept, e)
		} else {
			kept[(n-1)%tail] = e // a ring: the oldest makes room
		}
		return nil
	})
	if err != nil {
		c.fail(w, r, err)
		return
	}
	l := logList{Entries: make([]jobview.LogEntry, 0, len(kept)), Skipped: n - len(kept)}
	for i := range kept {
		l.Entries = append(l.Entries, kept[(n+i)%len(kept)])
	}
	c.json(w, l)
}

func logQuery(r *http.Request) (least jobview.Level, tail int, err error) {
	least, tail = jobview.LevelInfo, defaultTail
	q := r.URL.Query()
	if s := q.Get("level"); s != "" {
		if least, err = jobview.ParseLevel(s); err != nil {
			return 0, 0, err
		}
	}
	if s := q.Get("tail"); s != "" {
		if tail, err = strconv.Atoi(s); err != nil || tail < 1 || tail > maxTail {
			return 0, 0, fmt.Errorf("tail=%q: want a number from 1 to %d", s, maxTail)
		}
	}
	return least, tail, nil
}
