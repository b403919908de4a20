// Package fault gives errors a class, so that whoever handles one decides by
// class and never by text.
package fault

import (
	"errors"
	"fmt"
)

// Class says what an error means for the work that met it.
type Class int

const (
	// Internal is the class of an error that carries none: a defect of ours or of the machine.
	Internal Class = iota
	// UserCode errors come out of the user's own functions; trying again may help a few times.
	UserCode
	// Retryable errors are of the infrastructure: a lost harness, a broken connection.
	Retryable
	// Fenced errors tell a writer of an older generation that it has been replaced.
	Fenced
	// Corruption means that bytes are not what they should be.
	Corruption
	// Unsupported features are refused before anything runs.
	Unsupported
	// Invalid input is against a protocol or the Beam model.
	Invalid
)

var names = [...]string{"internal", "user code", "retryable", "fenced", "corruption", "unsupported", "invalid"}

// String returns the class's name for messages and logs.
func (c Class) String() string {
	if c < 0 || int(c) >= len(names) {
		return fmt.Sprintf("class %d", int(c))
	}
	return names[c]
}

type classed struct {
	class Class
	err   error
}

func (e *classed) Error() string { return e.err.Error() }
func (e *classed) Unwrap() error { return e.err }

// New makes an error of class c; format and args are as in fmt.Errorf, %w included.
func New(c Class, format string, args ...any) error {
	return &classed{c, fmt.Errorf(format, args...)}
}

// Wrap gives err the class c. The outermost class is the one that counts. A nil err stays nil.
func Wrap(c Class, err error) error {
	if err == nil {
		return nil
	}
	return &classed{c, err}
}

// ClassOf returns the class of err, Internal if it has none.
func ClassOf(err error) Class {
	var e *classed
	if errors.As(err, &e) {
		return e.class
	}
	return Internal
}
