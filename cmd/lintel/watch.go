package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/lintelrun/lintel/web/jobclient"
	"github.com/lintelrun/lintel/web/jobview"
)

// pollEvery is how often a watch looks for new jobs.
const pollEvery = 200 * time.Millisecond

// watch follows all jobs that appear on a server after its start. The Job API
// doesn't tell who submitted a job, so on a shared server it sees those of others.
type watch struct {
	client *jobclient.Client
	// show prints an entry of a job's log; calls come one at a time.
	show func(jobview.LogEntry) error
	news io.Writer

	stopPolling context.CancelFunc
	polling     chan struct{} // closed when polling has ended
	readers     sync.WaitGroup

	mu   sync.Mutex // protects what follows, and writing to news and show
	old  map[string]bool
	jobs []*watched
}

// watched is one new job.
type watched struct {
	id, state string
	leave     context.CancelFunc // ends the reading of its log
}

// start notes the jobs that there are and begins to look for others.
func (w *watch) start(ctx context.Context) error {
	jobs, err := w.client.List(ctx)
	if err != nil {
		return err
	}
	w.old, w.polling = map[string]bool{}, make(chan struct{})
	for _, j := range jobs {
		w.old[j.ID] = true
	}
	// Not ended by a signal: what jobs say while they are cancelled is of interest.
	ctx, w.stopPolling = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(w.polling)
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				// An error here shows in finish if it lasts.
				_ = w.look(ctx)
			}
		}
	}()
	return nil
}

// look takes note of all jobs and begins to follow those that are new.
func (w *watch) look(ctx context.Context) error {
	jobs, err := w.client.List(ctx)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range jobs {
		if w.old[j.ID] {
			continue
		}
		i := slices.IndexFunc(w.jobs, func(known *watched) bool { return known.id == j.ID })
		if i < 0 {
			i = len(w.jobs)
			reading, leave := context.WithCancel(context.WithoutCancel(ctx))
			w.jobs = append(w.jobs, &watched{id: j.ID, leave: leave})
			fmt.Fprintf(w.news, "lintel: job %s (%s)\n", j.ID, j.Name)
			w.readers.Go(func() { w.follow(reading, j.ID) })
		}
		w.jobs[i].state = j.State
	}
	return nil
}

func (w *watch) follow(ctx context.Context, id string) {
	lost := func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		tellLost(w.news, err)
	}
	err := w.client.FollowLogs(ctx, id, lost, func(e jobview.LogEntry) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.show(e)
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		w.mu.Lock()
		defer w.mu.Unlock()
		fmt.Fprintf(w.news, "lintel: log of job %s: %v\n", id, err)
	}
}

// finish waits until all new jobs have ended and returns how they did: a job that
// failed or was cancelled counts before what the program itself returned. When ctx
// ends, it cancels the jobs and gives them a little time.
func (w *watch) finish(ctx context.Context, program error) error {
	w.stopPolling()
	<-w.polling
	defer w.leaveLogs()
	calls, stopCalls := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCalls()
	heard := time.Now()
	for signalled := ctx.Done(); ; {
		switch err := w.look(calls); {
		case err == nil && w.ended():
			return cmp.Or(ctx.Err(), w.result(program))
		case err == nil:
			heard = time.Now()
		case ctx.Err() != nil || w.ended() || !errors.Is(err, jobclient.ErrUnreachable) || time.Since(heard) > jobclient.Patience:
			return cmp.Or(ctx.Err(), errors.Join(program, err))
		} // else the server may be started again, and the jobs go on
		select {
		case <-signalled:
			signalled = nil
			defer time.AfterFunc(patience, stopCalls).Stop()
			if err := w.cancelAll(calls); err != nil {
				return err
			}
		case <-calls.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// ended tells whether no job runs any more. One that was never run doesn't count:
// the program that would run it is gone.
func (w *watch) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !slices.ContainsFunc(w.jobs, func(j *watched) bool {
		return j.state != "STOPPED" && !jobview.IsTerminal(j.state)
	})
}

func (w *watch) cancelAll(ctx context.Context) error {
	w.mu.Lock()
	jobs := slices.Clone(w.jobs)
	w.mu.Unlock()
	var errs []error
	for _, j := range jobs {
		_, err := w.client.Cancel(ctx, j.id)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (w *watch) result(program error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var worst error
	for _, j := range w.jobs {
		err := ofState(j.id, j.state)
		if err != nil && (worst == nil || codeOf(err) == exitJobFailed) {
			worst = err
		}
	}
	return cmp.Or(worst, program)
}

// leaveLogs reads the logs of jobs that have ended to their ends, and no others.
func (w *watch) leaveLogs() {
	w.mu.Lock()
	var rest []context.CancelFunc
	for _, j := range w.jobs {
		if jobview.IsTerminal(j.state) {
			rest = append(rest, j.leave)
		} else {
			j.leave()
		}
	}
	w.mu.Unlock()
	defer time.AfterFunc(patience/4, func() {
		for _, leave := range rest {
			leave()
		}
	}).Stop()
	w.readers.Wait()
	for _, leave := range rest {
		leave()
	}
}
