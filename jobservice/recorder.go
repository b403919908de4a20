package jobservice

import (
	"context"
	"log/slog"
	"math"
	"time"
)

const (
	// recordBatch is how many events go to the record in one piece.
	recordBatch = 512
	// recordRetry is how long the recorder waits after an error of the disk.
	recordRetry = time.Second
	// recordPatience is how long a job's end waits for its record.
	recordPatience = 10 * time.Second
)

// recorder copies a job's journal to the job's record. It is one more reader of
// the journal: a slow or broken disk costs the record some messages, and the
// job nothing.
type recorder struct {
	journal *journal
	log     *slog.Logger // with the job's id

	begin  chan bool    // once: whether there will be anything to write; buffered
	finish chan *Ending // one at most, nil to leave the record open; buffered
	done   chan bool    // whether all of the record is there; buffered

	opened chan struct{} // closed once there is a record, or won't be
	writer RecordWriter  // set before that; nil if the record can't be written

	// Of the goroutine that runs.
	after   int64 // Seq of the newest event written
	bytes   int   // written since the log was replaced
	failing bool
}

func newRecorder(j *journal, log *slog.Logger) *recorder {
	return &recorder{
		journal: j, log: log, opened: make(chan struct{}),
		begin: make(chan bool, 1), finish: make(chan *Ending, 1), done: make(chan bool, 1),
	}
}

// exists waits until the record is on the disk, and tells whether it is.
func (r *recorder) exists(ctx context.Context) bool {
	patience := time.NewTimer(recordPatience)
	defer patience.Stop()
	select {
	case <-r.opened:
		return r.writer != nil
	case <-patience.C:
		r.log.Warn("job record is late; the job goes on without waiting for it", "waited", recordPatience)
	case <-ctx.Done():
	}
	return false
}

// end completes the record once the journal is sealed, and reports whether all
// of it is there. The goroutine of run ends with it.
func (r *recorder) end(e Ending) bool { return r.finished(&e) }

// leave closes the record of a job that goes on in another process, once all of the journal is in it.
func (r *recorder) leave() { r.finished(nil) }

func (r *recorder) finished(e *Ending) bool {
	r.finish <- e
	patience := time.NewTimer(recordPatience)
	defer patience.Stop()
	select {
	case complete := <-r.done:
		return complete
	case <-patience.C:
		r.log.Warn("job record is late; the job goes on without it", "waited", recordPatience)
		return false
	}
}

// close closes the record as it is.
func (r *recorder) close() {
	if err := r.writer.Close(); err != nil {
		r.log.Warn("job record not closed", "error", err)
	}
}

// run opens the record and, once the job has begun, writes until the ending has come.
func (r *recorder) run(open func() (RecordWriter, error)) {
	w, err := open()
	if err != nil {
		r.log.Warn("job record not written; the job goes on without it", "error", err)
	} else {
		r.writer = w
	}
	close(r.opened)
	switch begun := <-r.begin; {
	case err != nil && begun:
		<-r.finish
		r.done <- false
	case begun:
		r.write()
	case err == nil:
		r.close()
	}
}

func (r *recorder) write() {
	for {
		changed, err := r.copy()
		var retry <-chan time.Time
		if err != nil {
			r.warn(err)
			retry = time.After(recordRetry)
		}
		select {
		case <-changed:
		case <-retry:
		case e := <-r.finish:
			r.done <- r.complete(e)
			return
		}
	}
}

// copy writes all that the journal has. It returns a channel that is closed when
// there is more.
func (r *recorder) copy() (<-chan struct{}, error) {
	for {
		events, _, changed := r.journal.since(r.after, recordBatch, false)
		if len(events) == 0 {
			r.failing = false
			return changed, nil
		}
		if err := r.writer.Append(events); err != nil {
			return nil, err
		}
		r.after = events[len(events)-1].Seq
		r.bytes += sizeOf(events)
		if r.bytes > 2*r.journal.maxBytes {
			if err := r.replace(); err != nil {
				return nil, err
			}
		}
	}
}

// replace drops from the record what the journal has dropped, which bounds it.
func (r *recorder) replace() error {
	events, _, _ := r.journal.since(0, math.MaxInt, false)
	if err := r.writer.Replace(events); err != nil {
		return err
	}
	r.after, r.bytes = events[len(events)-1].Seq, sizeOf(events)
	return nil
}

func (r *recorder) complete(e *Ending) bool {
	_, err := r.copy()
	if err != nil {
		r.warn(err)
	}
	if e != nil {
		if endErr := r.writer.End(*e); endErr != nil {
			r.failing = false // what follows is something else
			r.warn(endErr)
			err = endErr
		}
	}
	r.close()
	return err == nil
}

// warn tells of the first error of several in a row.
func (r *recorder) warn(err error) {
	if !r.failing {
		r.log.Warn("job record not written; the job goes on without it", "error", err)
	}
	r.failing = true
}

func sizeOf(events []Event) (bytes int) {
	for _, e := range events {
		bytes += len(e.Text) + eventOverhead
	}
	return bytes
}
