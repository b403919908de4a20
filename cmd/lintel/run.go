package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/lintelrun/lintel/web/jobclient"
	"github.com/lintelrun/lintel/web/jobview"
)

// runFlags are the flags of lintel run.
type runFlags struct {
	endpoint, dataDir string
	from              string
	sdk               *choice
	level             func() jobview.Level
}

func newRun() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGUMENT…]",
		Short: "Run a pipeline's own program against a server, started if need be",
		Long: `Run a pipeline's own program against a server.

If nothing answers at the endpoint, a server is started there for as long as the program
runs. The runner flags that the program's SDK needs are added unless the command line has
them; its environment gets LINTEL_JOB_ENDPOINT. The log of every job that appears on the
server meanwhile follows on standard error.

  lintel run -- python wordcount.py --input=kinglear.txt
  lintel run -- go run ./wordcount
  lintel run -- mvn compile exec:java -Dexec.mainClass=WordCount
  lintel run --sdk=java -- ./wordcount.sh
  lintel run --from=file:///savepoints/orders -- python orders.py

` + exitHelp,
		Args: exactly(cobra.MinimumNArgs(1)),
	}
	var f runFlags
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVar(&f.endpoint, "endpoint", defaultEndpoint, "job endpoint of the server, host:port")
	cmd.Flags().StringVar(&f.dataDir, "data-dir", defaultDataDir, "data directory of a server that is started")
	cmd.Flags().StringVar(&f.from, "from", "", "URI of a savepoint that the program's job begins with")
	f.sdk = choiceFlag(cmd, "sdk", "", "whose pipeline it is", append([]string{"auto"}, sdkNames()...)...)
	f.level = levelFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.run(cmd.Context(), args, cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

func (f *runFlags) run(ctx context.Context, command []string, out, errs io.Writer) error {
	k, err := f.chooseSDK(command)
	if err != nil {
		return err
	}
	if f.from != "" {
		if k, err = k.restoring(f.from, command); err != nil {
			return err
		}
	}
	if given, ok := k.endpoint(command); ok {
		f.endpoint = given
	}
	environment, err := k.environment(os.Environ(), f.endpoint)
	if err != nil {
		return err
	}
	s, err := f.ensureServer(ctx, errs)
	if err != nil {
		return err
	}
	if s != nil {
		defer s.stopWithin(patience)
	}
	return withClient(ctx, f.endpoint, func(ctx context.Context, c *jobclient.Client) error {
		w := &watch{client: c, show: logPrinter(errs, false, f.level), news: errs}
		if err := w.start(ctx); err != nil {
			return err
		}
		child := exec.CommandContext(ctx, command[0])
		child.Args = k.complete(command, f.endpoint)
		child.Env = append(os.Environ(), environment...)
		child.Stdin, child.Stdout, child.Stderr = os.Stdin, out, errs
		return w.finish(ctx, runChild(ctx, child))
	})
}

func (f *runFlags) chooseSDK(command []string) (*sdk, error) {
	if f.sdk.value != "auto" {
		return sdkNamed(f.sdk.value), nil
	}
	return detectSDK(command)
}

// ensureServer starts a server at the endpoint if it is on this machine and nobody
// answers there; otherwise it returns nil.
func (f *runFlags) ensureServer(ctx context.Context, errs io.Writer) (*server, error) {
	err := ask(ctx, f.endpoint, func(ctx context.Context, c *jobclient.Client) error {
		_, err := c.List(ctx)
		return err
	})
	if err == nil || !errors.Is(err, jobclient.ErrUnreachable) {
		return nil, err
	}
	host, port, splitErr := net.SplitHostPort(f.endpoint)
	number, portErr := strconv.Atoi(port)
	if splitErr != nil || portErr != nil || number < 1 {
		return nil, usageError(fmt.Errorf("--endpoint %q: want host:port", f.endpoint))
	}
	if !isLoopback(host) {
		return nil, fmt.Errorf("%w (it is on another machine, so no server is started)", err)
	}
	log, err := f.openLog()
	if err != nil {
		return nil, err
	}
	s, err := startServer(serverConfig{bind: host, jobPort: number, dataDir: f.dataDir, log: log})
	if err == nil {
		fmt.Fprintf(errs, "lintel: started a server at %s, http://%s; its log is in %s\n", s.jobAddress, s.httpAddress, f.logPath())
	}
	return s, err
}

func (f *runFlags) logPath() string { return filepath.Join(f.dataDir, "run.log") }

// openLog begins a new log at every run, so it can't grow for ever. The file is
// closed by the end of the process.
func (f *runFlags) openLog() (*slog.Logger, error) {
	if err := os.MkdirAll(f.dataDir, 0o755); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	file, err := os.Create(f.logPath())
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	return newLog(file, "info", "text"), nil
}

// runChild runs the program to its end. On SIGTERM it is told so too; a Ctrl-C has
// reached it already, as the terminal sends that to all. It then has a few seconds.
func runChild(ctx context.Context, child *exec.Cmd) error {
	child.WaitDelay = 5 * time.Second
	child.Cancel = func() error {
		var why interrupted
		if errors.As(context.Cause(ctx), &why) && why.signal == syscall.SIGTERM {
			return child.Process.Signal(syscall.SIGTERM)
		}
		return nil
	}
	err := child.Run()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended) && ended.ExitCode() >= 0:
		return &exitError{code: ended.ExitCode()}
	case errors.As(err, &ended):
		signal := ended.Sys().(syscall.WaitStatus).Signal()
		return &exitError{exitSignal + int(signal), fmt.Errorf("%s: %w", child.Path, err)}
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return &exitError{exitNotFound, err}
	}
	return err
}
