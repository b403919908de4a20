package jobservice

import (
	"context"
	"fmt"
	"log/slog"
	"sort"
	"strings"
	"sync"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// Event is an entry of a job's journal: a change of state or a message.
type Event struct {
	// Seq numbers the events of a job from 1, without gaps.
	Seq int64
	// Time is when it happened, UTC.
	Time time.Time
	// State is the state entered, JobState_UNSPECIFIED for a message.
	State State
	// Level and Text are those of a message.
	Level slog.Level
	Text  string
	// Harness marks a message that an SDK harness logged.
	Harness bool
	// Failure marks the one message that tells why the job failed.
	Failure bool
}

// eventOverhead is what an event takes beside its text, in bytes.
const eventOverhead = 96

// followBatch is how many events a reader takes at a time.
const followBatch = 128

// journal is a job's history: bounded, read by cursors, so that a slow reader
// costs nothing and blocks nobody. When it is full the oldest messages go, but
// never a state, the first error or the failure.
type journal struct {
	maxEvents, maxBytes, maxText int
	now                          func() time.Time

	mu      sync.Mutex
	last    int64   // Seq of the newest event
	pinned  []Event // kept for ever, by Seq
	rolling []Event // by Seq; the oldest go first
	bytes   int     // of rolling
	errors  int
	sealed  bool          // nothing more is taken; the last events may not show yet
	closed  bool          // all shows, the terminal state included
	changed chan struct{} // closed at the next append; nil if nobody waits
}

func newJournal(cfg Config) *journal {
	return &journal{maxEvents: cfg.MaxMessages, maxBytes: cfg.MaxMessageBytes, maxText: cfg.MaxTextBytes, now: time.Now}
}

// restoreJournal makes a closed journal of events of an ended job, by Seq, and
// drops what is more than journals keep.
func restoreJournal(cfg Config, events []Event) *journal {
	j := newJournal(cfg)
	for _, e := range events {
		j.keep(e)
	}
	j.sealed, j.closed = true, true
	return j
}

// add appends events in one step, so that no reader sees some of them only, and
// returns them with number and time. After the end it does nothing.
func (j *journal) add(events ...Event) []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sealed {
		return nil
	}
	events = j.number(events)
	for _, e := range events {
		j.keep(e)
	}
	j.wake()
	return events
}

// seal numbers the last events, which nobody sees until publish shows them.
// Whatever else comes is dropped.
func (j *journal) seal(events ...Event) []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.sealed = true
	return j.number(events)
}

// publish shows what seal has returned and closes the journal.
func (j *journal) publish(events []Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range events {
		j.keep(e)
	}
	j.closed = true
	j.wake()
}

func (j *journal) number(events []Event) []Event {
	now := j.now().UTC()
	numbered := make([]Event, len(events))
	for i, e := range events {
		j.last++
		e.Seq, e.Time = j.last, now
		e.Text = clipText(e.Text, j.maxText)
		numbered[i] = e
	}
	return numbered
}

func (j *journal) wake() {
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

func (j *journal) keep(e Event) {
	j.last = max(j.last, e.Seq)
	firstError := false
	if e.State == jobpb.JobState_UNSPECIFIED && e.Level >= slog.LevelError {
		j.errors++
		firstError = j.errors == 1
	}
	if e.State != jobpb.JobState_UNSPECIFIED || e.Failure || firstError {
		j.pinned = append(j.pinned, e)
		return
	}
	j.rolling = append(j.rolling, e)
	j.bytes += len(e.Text) + eventOverhead
	for len(j.rolling) > j.maxEvents || j.bytes > j.maxBytes && len(j.rolling) > 1 {
		j.bytes -= len(j.rolling[0].Text) + eventOverhead
		j.rolling[0] = Event{}
		j.rolling = j.rolling[1:]
	}
}

// since returns the next events after the given Seq, oldest first, at most
// limit of them. If there are none, closed tells whether any can come, and
// changed is closed when some have.
func (j *journal) since(after int64, limit int, statesOnly bool) (events []Event, closed bool, changed <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	pinned := j.pinned[search(j.pinned, after):]
	rolling := j.rolling[search(j.rolling, after):]
	if statesOnly {
		rolling = nil
	}
	for len(events) < limit && len(pinned)+len(rolling) > 0 {
		from := &pinned
		if len(pinned) == 0 || len(rolling) > 0 && rolling[0].Seq < pinned[0].Seq {
			from = &rolling
		}
		e := (*from)[0]
		*from = (*from)[1:]
		if !statesOnly || e.State != jobpb.JobState_UNSPECIFIED {
			events = append(events, e)
		}
	}
	if len(events) > 0 || j.closed {
		return events, j.closed, nil
	}
	if j.changed == nil {
		j.changed = make(chan struct{})
	}
	return nil, false, j.changed
}

func search(events []Event, after int64) int {
	return sort.Search(len(events), func(i int) bool { return events[i].Seq > after })
}

// follow calls fn with each event after the given Seq, those of the past first,
// until the journal is closed (nil), ctx ends, stop is closed (errStopped) or fn
// fails. Where messages have been dropped, one message says how many.
func (j *journal) follow(ctx context.Context, stop <-chan struct{}, after int64, statesOnly bool, fn func(Event) error) error {
	for {
		events, closed, changed := j.since(after, followBatch, statesOnly)
		for _, e := range events {
			if missed := e.Seq - after - 1; missed > 0 && !statesOnly {
				notice := Event{Seq: e.Seq - 1, Time: e.Time, Level: slog.LevelWarn,
					Text: fmt.Sprintf("%d older messages are gone: the job's log keeps the newest only", missed)}
				if err := fn(notice); err != nil {
					return err
				}
			}
			if err := fn(e); err != nil {
				return err
			}
			after = e.Seq
		}
		if len(events) > 0 {
			continue
		}
		if closed {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-stop:
			return errStopped
		}
	}
}

// clipText makes text fit for a proto string of at most limit bytes and some;
// the middle is left out, since a stack trace says most at its ends.
func clipText(text string, limit int) string {
	if len(text) > limit {
		text = fmt.Sprintf("%s\n… %d bytes left out …\n%s", text[:limit/2], len(text)-limit, text[len(text)-limit/2:])
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
