package process

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
)

const (
	maxLines = 50   // kept for the error that tells why a worker died
	maxLine  = 4096 // bytes of a line that are kept; the rest of it is counted only
)

// output cuts what a process prints into lines, hands them on and keeps the last ones. Write and
// flush are called by one goroutine at a time.
type output struct {
	each func(line string) // may be nil

	line    []byte // the line that has not ended yet
	skipped int    // bytes of it beyond maxLine

	mu   sync.Mutex
	last []string // ring; the oldest is at next once it is full
	next int
}

// Write implements io.Writer; it never fails.
func (o *output) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte{'\n'})
		rest = after
		room := min(maxLine-len(o.line), len(part))
		o.line = append(o.line, part[:room]...)
		o.skipped += len(part) - room
		if ended {
			o.endLine()
		}
	}
	return len(p), nil
}

// flush ends a last line that the process did not.
func (o *output) flush() {
	if len(o.line)+o.skipped > 0 {
		o.endLine()
	}
}

func (o *output) endLine() {
	line := strings.ToValidUTF8(string(bytes.TrimSuffix(o.line, []byte{'\r'})), "\uFFFD")
	if o.skipped > 0 {
		line += fmt.Sprintf("… (%d more bytes)", o.skipped)
	}
	o.line, o.skipped = o.line[:0], 0

	o.mu.Lock()
	if len(o.last) < maxLines {
		o.last = append(o.last, line)
	} else {
		o.last[o.next] = line
		o.next = (o.next + 1) % maxLines
	}
	o.mu.Unlock()
	if o.each != nil {
		o.each(line)
	}
}

// tail returns the last lines, oldest first, each ended.
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var b strings.Builder
	for i := range o.last {
		b.WriteString(o.last[(o.next+i)%len(o.last)])
		b.WriteByte('\n')
	}
	return b.String()
}
