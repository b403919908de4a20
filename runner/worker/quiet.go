package worker

import "context"

// Quiet is part of rpc.Execution.
func (e *execution) Quiet(context.Context, bool) error { return nil }

// Resume is part of rpc.Execution.
func (e *execution) Resume() {}
