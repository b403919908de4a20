package jobclient

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/lintelrun/lintel/web/jobview"
)

// Patience is how long FollowLogs waits for a server that has gone.
const Patience = 2 * time.Minute

// reattachEvery is how often it looks whether it is there again.
const reattachEvery = 500 * time.Millisecond

// FollowLogs is Logs until the job has ended, over restarts of the server: what was read is not given to each again. When
// the server goes lost is called with the reason, once for each time; after Patience that is the error.
// A server that does not answer at first is an error at once.
func (c *Client) FollowLogs(ctx context.Context, id string, lost func(error), each func(jobview.LogEntry) error) error {
	var read progress
	var since time.Time // when the server went; zero while it is there
	for {
		err := c.Logs(ctx, id, Follow, func(e jobview.LogEntry) error {
			since = time.Time{}
			if read.has(e) {
				return nil
			}
			return each(e)
		})
		// A server that stops may cancel calls.
		gone := errors.Is(err, ErrUnreachable) || errors.Is(err, context.Canceled) && ctx.Err() == nil
		switch {
		case !gone || read.last.IsZero():
			return err
		case since.IsZero():
			since = time.Now()
			lost(err)
		case time.Since(since) > Patience:
			return err
		}
		select {
		case <-time.After(reattachEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// progress is how far a log was read. It goes by time: what a server had said and not yet
// recorded when it was killed is not there again, and the numbers of messages are given anew.
type progress struct {
	last time.Time
	at   []jobview.LogEntry // that have this time
}

// has tells whether an entry was read before, and notes it.
func (p *progress) has(e jobview.LogEntry) bool {
	switch {
	case e.Time.IsZero():
		return false
	case e.Time.Before(p.last) || e.Time.Equal(p.last) && slices.Contains(p.at, e):
		return true
	case e.Time.After(p.last):
		p.last, p.at = e.Time, nil
	}
	p.at = append(p.at, e)
	return false
}
