// Package output cuts what a worker prints into lines, hands them on and keeps the last ones, for
// the error that tells why the worker ended.
package output

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
)

const (
	maxLines = 50   // kept by a Log
	maxLine  = 4096 // bytes of a line that are kept; the rest of it is counted only
	// crashLines are kept of a report of a crash, from its beginning.
	crashLines = 10
)

// crashes are how reports of crashes begin that go on for many lines, with the reason at the top:
// of Go, the JVM, Python and C++.
var crashes = []string{
	"panic: ", "fatal error: ", "runtime: out of memory", "SIGSEGV: ", "SIGBUS: ", "SIGABRT: ",
	"# A fatal error has been detected by the Java Runtime Environment", "Fatal Python error: ", "terminate called ",
}

// Log is what one worker has printed. LastWords may be called at any time; the streams of a Log
// are written to by one goroutine at a time.
type Log struct {
	each func(line string) // may be nil

	mu   sync.Mutex
	last []string // ring; the oldest is at next once it is full
	next int
	// crash is the beginning of the last report of a crash, and since how many lines came from then on.
	crash []string
	since int
}

// NewLog returns a Log that gives each line to each, without its end, unless each is nil.
func NewLog(each func(line string)) *Log { return &Log{each: each} }

// Stream returns a stream whose lines go to the log as they end.
func (l *Log) Stream() *Stream { return &Stream{log: l} }

func (l *Log) add(line string) {
	l.mu.Lock()
	if len(l.last) < maxLines {
		l.last = append(l.last, line)
	} else {
		l.last[l.next] = line
		l.next = (l.next + 1) % maxLines
	}
	l.noteCrash(line)
	l.mu.Unlock()
	if l.each != nil {
		l.each(line)
	}
}

func (l *Log) noteCrash(line string) {
	l.since++
	switch open := len(l.crash) > 0 && len(l.crash) < crashLines; {
	case open:
		l.crash = append(l.crash, line)
	case slices.ContainsFunc(crashes, func(begin string) bool { return strings.HasPrefix(line, begin) }):
		l.crash, l.since = append(l.crash[:0], line), 1
	}
}

// LastWords returns the last lines for an error message: "its last lines:" and each on a line of
// its own, or that there was none. If a crash was reported before them, how that begins is first.
func (l *Log) LastWords() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.last) == 0 {
		return "it printed nothing"
	}
	var b strings.Builder
	if l.since > len(l.last) && len(l.crash) > 0 {
		b.WriteString("it crashed:\n")
		for _, line := range l.crash {
			b.WriteString(line)
			b.WriteByte('\n')
		}
	}
	b.WriteString("its last lines:\n")
	for i := range l.last {
		b.WriteString(l.last[(l.next+i)%len(l.last)])
		b.WriteByte('\n')
	}
	return b.String()
}

// Stream is one of the streams of a Log: an io.Writer of bytes that are cut into lines.
type Stream struct {
	log     *Log
	line    []byte // the line that has not ended yet
	skipped int    // bytes of it beyond maxLine
}

// Write implements io.Writer; it never fails.
func (s *Stream) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte{'\n'})
		rest = after
		room := min(maxLine-len(s.line), len(part))
		s.line = append(s.line, part[:room]...)
		s.skipped += len(part) - room
		if ended {
			s.endLine()
		}
	}
	return len(p), nil
}

// Flush ends a last line that the worker did not.
func (s *Stream) Flush() {
	if len(s.line)+s.skipped > 0 {
		s.endLine()
	}
}

func (s *Stream) endLine() {
	line := strings.ToValidUTF8(string(bytes.TrimSuffix(s.line, []byte{'\r'})), "\uFFFD")
	if s.skipped > 0 {
		line += fmt.Sprintf("… (%d more bytes)", s.skipped)
	}
	s.line, s.skipped = s.line[:0], 0
	s.log.add(line)
}
