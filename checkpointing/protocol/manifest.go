package protocol

import (
	"math"

	"github.com/lintelrun/lintel/internal/fault"
)

// Manifest is a checkpoint: all that a job needs to go on from an epoch. Times of events are ms,
// those of the clock ms since 1970. Stages, edges and transforms go by names that the pipeline
// gives them, never by numbers of a plan.
type Manifest struct {
	Epoch, Generation uint64
	// Savepoint is true where the user owns it: it is self-contained, all of its files lie
	// beside it, and no retention touches it.
	Savepoint bool
	// Taken is when the epoch began.
	Taken int64
	// KeyGroups is the number of key groups of the job, which no restore changes.
	KeyGroups int
	Job       Job
	// Plan is the SHA-256 of the plan as text. Where it is that of the plan to run, names need not be looked at.
	Plan [32]byte
	// Pipeline is what an update is checked against.
	Pipeline Pipeline
	// Files of the checkpoint, each once. Others name them by their place here.
	Files []File
	// Tasks of all stages. Those of a stage follow each other, by their index.
	Tasks []Task
	// Metrics are what the job had counted, serialised protos.
	Metrics []string
}

// Job is the record of the job.
type Job struct {
	ID, Name  string
	Submitted int64
	// Pipeline and Options as submitted, serialised protos.
	Pipeline, Options Span
}

// File is an object with content.
type File struct {
	FileID
	Size int64
	// CRC32C of the content (Castagnoli).
	CRC32C uint32
}

// Span is a part of a file: bytes [Offset, Offset+Length) of Files[File].
type Span struct {
	File           int
	Offset, Length int64
}

// Task is the snapshot of one task.
type Task struct {
	Stage string
	// Index of Of tasks of the stage.
	Index, Of int
	// FirstGroup and EndGroup are the key groups [FirstGroup, EndGroup) that it owns; both 0
	// in stages without keys.
	FirstGroup, EndGroup int
	// Ended: it had done all it had to do. It has no channels and parts then.
	Ended bool
	// Input and Output are its watermarks.
	Input, Output int64
	// Hold of its own on the output watermark, apart from those of timers and residuals.
	Hold     int64
	Channels []Channel
	Parts    []Part
}

// Channel is one input channel of a task.
type Channel struct {
	// Edge is the name of the edge, From the index of the sending task.
	Edge string
	From int
	// Watermark that had come before the barrier.
	Watermark int64
}

// PartKind says what a part of a snapshot is.
type PartKind uint8

// The kinds of parts. What is in their bytes is up to those who write and read them.
const (
	// State is a range of the task's store, timers and expiries among it, as records.
	State PartKind = iota + 1
	// Tables are the files of a Pebble database, whole: the task's store. Name is the file's.
	Tables
	// Inbox is input that was not committed, that of running bundles included, in order.
	Inbox
	// Residuals are rests of elements, with their delays and holds.
	Residuals
	// Parked is input that waits for side inputs.
	Parked
	// Outbox is output that waited for credit, by edge and receiver: the barrier went round it.
	Outbox
	// Side is the contents of a side input by window.
	Side
	// Position is how far a source of the runner's own was.
	Position
	// Finalizers are ids of bundles to finalise once the checkpoint is durable. A restore has
	// no use for them.
	Finalizers
	// Spool is values of large panes that were not read by all: Name is that of a file of them, whole;
	// without a name it is the index of these files.
	Spool

	partKinds = iota + 1
)

// String returns the kind's name.
func (k PartKind) String() string {
	names := [partKinds]string{"none", "state", "tables", "inbox", "residuals", "parked", "outbox", "side", "position", "finalizers", "spool"}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Part is a piece of a task's snapshot. Parts of one kind follow each other in order.
type Part struct {
	Kind PartKind
	// Name of what it is a part of, where the kind has several: the edge of an outbox, the
	// file of a database.
	Name string
	// Index is the receiving task of an outbox.
	Index int
	// FirstGroup and EndGroup bound the key groups of what is in it; both 0 where it has no keys.
	FirstGroup, EndGroup int
	// Elements in it, where it has elements.
	Elements int64
	Span     Span
}

// Bytes returns the size of all files, and of those that were uploaded in the manifest's own epoch.
func (m *Manifest) Bytes() (total, fresh int64) {
	for _, f := range m.Files {
		total += f.Size
		if f.Epoch == m.Epoch && f.Generation == m.Generation {
			fresh += f.Size
		}
	}
	return total, fresh
}

// maxKeyGroups is that of package statebackend.
const maxKeyGroups = 1 << 16

// Validate says what in a manifest contradicts itself, as a fault.Corruption.
func (m *Manifest) Validate() error {
	switch {
	case m.Epoch == 0 || m.Generation == 0:
		return corrupt("a manifest of epoch %d, generation %d; both begin with 1", m.Epoch, m.Generation)
	case m.KeyGroups < 1 || m.KeyGroups > maxKeyGroups:
		return corrupt("%d key groups are not between 1 and %d", m.KeyGroups, maxKeyGroups)
	}
	if err := m.validateFiles(); err != nil {
		return err
	}
	for _, s := range []Span{m.Job.Pipeline, m.Job.Options} {
		if err := m.validateSpan(s); err != nil {
			return fault.Wrap(fault.Corruption, err)
		}
	}
	if err := m.Pipeline.validate(); err != nil {
		return err
	}
	return m.validateTasks()
}

func (m *Manifest) validateFiles() error {
	known := make(map[FileID]bool, len(m.Files))
	for _, f := range m.Files {
		switch {
		case known[f.FileID]:
			return corrupt("file %s is there twice", f.Name())
		case f.Size < 0:
			return corrupt("file %s has %d bytes", f.Name(), f.Size)
		case f.Epoch == 0 || f.Epoch > m.Epoch || f.Generation == 0 || f.Generation > m.Generation:
			return corrupt("file %s is not of a time before epoch %d of generation %d", f.Name(), m.Epoch, m.Generation)
		}
		known[f.FileID] = true
	}
	return nil
}

func (m *Manifest) validateSpan(s Span) error {
	if s == (Span{}) {
		return nil // nothing
	}
	if s.File < 0 || s.File >= len(m.Files) {
		return corrupt("file %d of %d", s.File, len(m.Files))
	}
	if size := m.Files[s.File].Size; s.Offset < 0 || s.Length < 0 || s.Offset > size || s.Length > size-s.Offset {
		return corrupt("%d bytes from %d on of file %s, which has %d", s.Length, s.Offset, m.Files[s.File].Name(), size)
	}
	return nil
}

func (m *Manifest) validateTasks() error {
	done := map[string]bool{}
	for i := 0; i < len(m.Tasks); {
		stage, of := m.Tasks[i].Stage, m.Tasks[i].Of
		if done[stage] || stage == "" {
			return corrupt("the tasks of stage %q are not together", stage)
		}
		done[stage] = true
		if of < 1 || of > len(m.Tasks)-i {
			return corrupt("stage %q has %d tasks, of which some are missing", stage, of)
		}
		keyed, group := false, 0
		for n, t := range m.Tasks[i : i+of] {
			if t.Stage != stage || t.Index != n || t.Of != of {
				return corrupt("stage %q has task %d of %d, which is not to be here", stage, t.Index, t.Of)
			}
			if keyed = keyed || t.EndGroup != 0; t.FirstGroup != group || t.EndGroup < group {
				return corrupt("task %d of stage %q has key groups [%d, %d) after those before %d", n, stage, t.FirstGroup, t.EndGroup, group)
			}
			group = t.EndGroup
			if err := m.validateTask(&t); err != nil {
				return fault.Wrap(fault.Corruption, err)
			}
		}
		if keyed && group != m.KeyGroups {
			return corrupt("stage %q has key groups up to %d of %d", stage, group, m.KeyGroups)
		}
		i += of
	}
	return nil
}

func (m *Manifest) validateTask(t *Task) error {
	where := func(err error) error {
		return fault.New(fault.Corruption, "task %d of stage %q: %w", t.Index, t.Stage, err)
	}
	if t.Ended && len(t.Channels)+len(t.Parts) > 0 {
		return where(corrupt("it has ended and has something left"))
	}
	for _, c := range t.Channels {
		if c.From < 0 || c.From > math.MaxInt32 || c.Edge == "" {
			return where(corrupt("channel from task %d of edge %q", c.From, c.Edge))
		}
	}
	last := PartKind(0)
	for _, p := range t.Parts {
		switch {
		case p.Kind == 0 || p.Kind >= partKinds || p.Kind < last:
			return where(corrupt("a part of kind %d after one of kind %d", p.Kind, last))
		case p.Index < 0 || p.Elements < 0:
			return where(corrupt("part %v: index %d, %d elements", p.Kind, p.Index, p.Elements))
		case p.FirstGroup > p.EndGroup || p.EndGroup > 0 && (p.FirstGroup < t.FirstGroup || p.EndGroup > t.EndGroup):
			return where(corrupt("part %v has key groups [%d, %d), the task [%d, %d)", p.Kind, p.FirstGroup, p.EndGroup, t.FirstGroup, t.EndGroup))
		}
		if p.Kind == Tables && (!isFileName(p.Name) || p.Span.Offset != 0) {
			return where(corrupt("a table by the name %q, from byte %d on", p.Name, p.Span.Offset))
		}
		last = p.Kind
		if err := m.validateSpan(p.Span); err != nil {
			return where(err)
		}
	}
	return nil
}

// isFileName holds for names that are safe in any folder.
func isFileName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_':
		case c == '.' && i > 0:
		default:
			return false
		}
	}
	return name != ""
}
