package jobview

import (
	"fmt"
	"slices"
	"strings"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// Level is the importance of a job's message, least first.
type Level int

// The levels stand for the Job API's MessageImportance, in its order; a message
// without importance counts as LevelInfo.
const (
	LevelDebug Level = iota
	LevelDetail
	LevelInfo
	LevelWarn
	LevelError
)

// LevelNames are the names of all levels, least first.
var LevelNames = []string{"debug", "detail", "info", "warn", "error"}

// String returns the level's name.
func (l Level) String() string {
	if l < 0 || int(l) >= len(LevelNames) {
		return fmt.Sprintf("level %d", int(l))
	}
	return LevelNames[l]
}

// ParseLevel is the inverse of String.
func ParseLevel(name string) (Level, error) {
	if i := slices.Index(LevelNames, strings.ToLower(name)); i >= 0 {
		return Level(i), nil
	}
	return 0, fmt.Errorf("unknown level %q: want one of %s", name, strings.Join(LevelNames, ", "))
}

// MarshalText makes levels appear by name in JSON.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (l *Level) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLevel(string(b))
	return err
}

// LogEntry is one thing that a job said: either a message, or that it changed its state.
type LogEntry struct {
	// Time is as the job gave it, zero if it gave none that can be read.
	Time  time.Time `json:"time,omitzero"`
	Level Level     `json:"level"`
	// Message may have several lines, such as a stack trace.
	Message string `json:"message,omitempty"`
	// State is the new state where the entry tells of a change, else empty.
	State string `json:"state,omitempty"`
}

// OfMessage views one response of GetMessageStream. State changes have LevelInfo.
func OfMessage(r *jobpb.JobMessagesResponse) LogEntry {
	if s := r.GetStateResponse(); s != nil {
		e := LogEntry{Level: LevelInfo, State: s.GetState().String()}
		if ts := s.GetTimestamp(); ts.IsValid() {
			e.Time = ts.AsTime()
		}
		return e
	}
	m := r.GetMessageResponse()
	e := LogEntry{Level: levelOf(m.GetImportance()), Message: m.GetMessageText()}
	if t, err := time.Parse(time.RFC3339Nano, m.GetTime()); err == nil {
		e.Time = t.UTC()
	}
	return e
}

func levelOf(i jobpb.JobMessage_MessageImportance) Level {
	switch i {
	case jobpb.JobMessage_JOB_MESSAGE_DEBUG:
		return LevelDebug
	case jobpb.JobMessage_JOB_MESSAGE_DETAILED:
		return LevelDetail
	case jobpb.JobMessage_JOB_MESSAGE_WARNING:
		return LevelWarn
	case jobpb.JobMessage_JOB_MESSAGE_ERROR:
		return LevelError
	}
	return LevelInfo
}
