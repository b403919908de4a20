// Package rpcstatus turns classed errors into gRPC statuses for the services
// that clients of the Job API call.
package rpcstatus

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lintelrun/lintel/internal/fault"
)

// Of returns err as a status error with the same text: one that is a status
// already stays as it is, the others get a code by their class. Nil stays nil.
func Of(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	return status.Error(codeOf(err), err.Error())
}

func codeOf(err error) codes.Code {
	switch {
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return codes.ResourceExhausted
	}
	switch fault.ClassOf(err) {
	case fault.Invalid:
		return codes.InvalidArgument
	case fault.Unsupported:
		return codes.FailedPrecondition
	case fault.Retryable:
		return codes.Unavailable
	case fault.Fenced:
		return codes.Aborted
	case fault.Corruption:
		return codes.DataLoss
	default:
		return codes.Internal
	}
}

// Errorf makes an error that stands for a gRPC status of the given code. Unlike
// the errors of package status its text is the message alone, so that wrapping
// it reads well.
func Errorf(code codes.Code, format string, args ...any) error {
	return &statusError{code, fmt.Sprintf(format, args...)}
}

type statusError struct {
	code codes.Code
	text string
}

func (e *statusError) Error() string              { return e.text }
func (e *statusError) GRPCStatus() *status.Status { return status.New(e.code, e.text) }
