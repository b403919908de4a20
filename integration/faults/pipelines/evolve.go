package main

import (
	"fmt"
	"os"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/periodic"
)

// evolve numbers what its endless input gives, and adds a line to the file observed of each: the variant, the input's number,
// the state's, and what the state had of the one before. Variants differ in what becomes of the state.
func evolve(s beam.Scope) {
	start := time.Now().UnixMilli()
	sequence := beam.Create(s, periodic.SequenceDefinition{Interval: *every, Start: start, End: start + time.Hour.Milliseconds()})
	in := beam.AddFixedKey(s, periodic.Sequence(s, sequence))
	to := note{Variant: *variant, File: *observed}
	switch *variant {
	case "dropped":
		beam.ParDo0(s, &pass{to}, in)
	case "text":
		beam.ParDo0(s, &numberText{Count: state.MakeValueState[int64]("count"), Last: state.MakeValueState[string]("last"), note: to}, in)
	default:
		count := map[bool]string{true: "number", false: "count"}[*variant == "renamed"]
		beam.ParDo0(s, &number{Count: state.MakeValueState[int64](count), Last: state.MakeValueState[int64]("last"), note: to}, in)
	}
}

// note writes lines to a file.
type note struct {
	Variant, File string
	out           *os.File
}

// Setup opens the file.
func (n *note) Setup() (err error) {
	n.out, err = os.OpenFile(n.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	return err
}

// Teardown closes the file.
func (n *note) Teardown() error { return n.out.Close() }

func (n *note) line(i, count int64, last any) error {
	_, err := fmt.Fprintf(n.out, "%s %d %d %v\n", n.Variant, i, count, last)
	return err
}

// number has two states.
type number struct {
	Count, Last state.Value[int64]
	note
}

// ProcessElement numbers an element.
func (f *number) ProcessElement(p state.Provider, _ int, i int64) error {
	count, _, err := f.Count.Read(p)
	if err != nil {
		return err
	}
	last, ok, err := f.Last.Read(p)
	if err != nil {
		return err
	}
	if !ok {
		last = -1
	}
	if err := f.line(i, count+1, last); err != nil {
		return err
	}
	if err := f.Last.Write(p, i); err != nil {
		return err
	}
	return f.Count.Write(p, count+1)
}

// numberText has one of them as text.
type numberText struct {
	Count state.Value[int64]
	Last  state.Value[string]
	note
}

// ProcessElement numbers an element.
func (f *numberText) ProcessElement(p state.Provider, _ int, i int64) error {
	count, _, err := f.Count.Read(p)
	if err != nil {
		return err
	}
	last, ok, err := f.Last.Read(p)
	if err != nil {
		return err
	}
	if !ok {
		last = "none"
	}
	if err := f.line(i, count+1, last); err != nil {
		return err
	}
	if err := f.Last.Write(p, fmt.Sprint(i)); err != nil {
		return err
	}
	return f.Count.Write(p, count+1)
}

// pass has no state.
type pass struct{ note }

// ProcessElement notes an element.
func (f *pass) ProcessElement(_ int, i int64) error { return f.line(i, 0, "none") }

func init() {
	beam.RegisterDoFn(&number{})
	beam.RegisterDoFn(&numberText{})
	beam.RegisterDoFn(&pass{})
}
