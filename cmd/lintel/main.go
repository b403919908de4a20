// Command lintel runs Apache Beam pipelines. `lintel dev` is a whole server in one
// process; the other commands talk to one, or look at pipelines without it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/lintelrun/lintel/fnapi/environment/docker"
	"github.com/lintelrun/lintel/fnapi/environment/process"
)

func main() {
	process.RunGuard() // does not return in a child that guards a harness
	docker.RunGuard()  // nor this in one that guards containers
	os.Exit(run(os.Args[1:]))
}

// run executes one command line and returns the process's exit code.
func run(args []string) int {
	ctx, stop := interruptible(context.Background())
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	code := codeOf(err)
	if signalled := new(interrupted); errors.Is(err, context.Canceled) && errors.As(context.Cause(ctx), signalled) {
		return exitSignal + int(signalled.signal.(syscall.Signal))
	}
	if text := messageOf(err); text != "" {
		fmt.Fprintln(os.Stderr, "lintel: "+text)
	}
	if code == exitUsage {
		fmt.Fprintln(os.Stderr, "Run 'lintel help' to see what there is.")
	}
	return code
}

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal os.Signal }

func (i interrupted) Error() string { return i.signal.String() }

// interruptible returns a context that the first SIGINT or SIGTERM ends, with the
// cause interrupted; the second ends the process at once.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		if first, ok := <-signals; ok {
			cancel(interrupted{first})
		}
		if second, ok := <-signals; ok {
			os.Exit(exitSignal + int(second.(syscall.Signal)))
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel(nil)
	}
}
