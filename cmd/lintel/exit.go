package main

import (
	"errors"

	"github.com/lintelrun/lintel/web/jobclient"
	"github.com/lintelrun/lintel/web/jobview"
)

// Exit codes are part of the command line's interface: they never change their meaning.
const (
	exitOK           = 0
	exitFailure      = 1
	exitUsage        = 2
	exitNotFound     = 3
	exitUnreachable  = 4
	exitJobFailed    = 5
	exitJobCancelled = 6
	exitSignal       = 128 // + number of the signal that ended it
)

const exitHelp = `Exit codes:
  0    done
  1    failure
  2    the command line, or a LINTEL_ variable, is wrong
  3    no such job, or no such file
  4    no server answers at the endpoint
  5    the job failed            (run, jobs logs --follow)
  6    the job was cancelled     (run, jobs logs --follow)
  128+ ended by the signal of that number; run: also the command's own code`

// exitError ends the process with a code. Without err it says nothing more.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

func usageError(err error) error { return &exitError{exitUsage, err} }

func codeOf(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, jobview.ErrNotFound):
		return exitNotFound
	case errors.Is(err, jobclient.ErrUnreachable):
		return exitUnreachable
	}
	return exitFailure
}

func messageOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// ofState is the error that a job's last state stands for, nil if it is done.
func ofState(id, state string) error {
	switch state {
	case "FAILED":
		return &exitError{exitJobFailed, errors.New("job " + id + " failed")}
	case "CANCELLED":
		return &exitError{exitJobCancelled, errors.New("job " + id + " was cancelled")}
	}
	return nil
}
