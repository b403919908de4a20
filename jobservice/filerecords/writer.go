package filerecords

import (
	"os"
	"path"
	"slices"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/jobservice"
)

// writer implements jobservice.RecordWriter. It holds the log open once
// something has been appended.
type writer struct {
	records *Records
	id      string
	file    *os.File
	length  int64 // of the log, as far as it is whole; 0 before its beginning is written
	clean   bool  // the file ends there
	synced  bool  // and is on the disk
}

// Append implements jobservice.RecordWriter. A state is flushed to the disk, but for RUNNING: that the job
// was started is there.
func (w *writer) Append(events []jobservice.Event) error {
	if w.file == nil {
		f, err := w.records.root.OpenFile(path.Join(w.id, logFile), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		w.file, w.clean = f, false
	}
	if !w.clean { // an earlier process, or write, has not come to its end
		if err := w.file.Truncate(w.length); err != nil {
			return err
		}
	}
	var b []byte
	if w.length == 0 {
		b = appendMagic(b)
	}
	b, err := appendEvents(b, events)
	if err != nil {
		return err
	}
	w.clean, w.synced = false, false
	if _, err := w.file.WriteAt(b, w.length); err != nil {
		return err
	}
	if slices.ContainsFunc(events, func(e jobservice.Event) bool {
		return e.State != jobpb.JobState_UNSPECIFIED && e.State != jobpb.JobState_RUNNING
	}) {
		if err := w.sync(); err != nil {
			return err
		}
	}
	w.length += int64(len(b))
	w.clean = true
	return nil
}

// Replace implements jobservice.RecordWriter.
func (w *writer) Replace(events []jobservice.Event) error {
	b, err := appendEvents(appendMagic(nil), events)
	if err != nil {
		return err
	}
	if err := w.records.replace(w.id, logFile, b, func(*os.File) error { return nil }); err != nil {
		return err
	}
	err = w.Close() // the old log
	w.length = int64(len(b))
	return err
}

// End implements jobservice.RecordWriter. What has been flushed beside its place is safe: that it is
// renamed need not be.
func (w *writer) End(e jobservice.Ending) error {
	b, err := appendEvents(appendMagic(nil), e.Events)
	if err != nil {
		return err
	}
	metrics, err := proto.Marshal(e.Metrics)
	if err != nil {
		return err
	}
	if b, err = appendFrame(b, kindMetrics, metrics); err != nil {
		return err
	}
	return w.records.replace(w.id, endFile, b, func(f *os.File) error {
		return together(f.Sync, func() error { return w.records.syncDir(w.id) }, w.sync)
	})
}

// sync flushes the log to the disk.
func (w *writer) sync() error {
	if w.file == nil || w.synced {
		return nil
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	w.synced = true
	return nil
}

// Close implements jobservice.RecordWriter.
func (w *writer) Close() error {
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

func appendEvents(b []byte, events []jobservice.Event) (_ []byte, err error) {
	for _, e := range events {
		if b, err = appendFrame(b, kindEvent, appendEvent(nil, e)); err != nil {
			return nil, err
		}
	}
	return b, nil
}
