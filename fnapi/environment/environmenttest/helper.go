package environmenttest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// Behaviour is what a worker of the suite does.
type Behaviour string

// Behaviours. All but NeverConnects and Dies open a Control stream and keep it, with their
// arguments in its header, and then wait for SIGTERM or forever.
const (
	Connects      Behaviour = "connects"
	NeverConnects Behaviour = "never connects"
	// Dies prints LastWords and exits with code 3 without having connected.
	Dies Behaviour = "dies"
	// IgnoresTerm does not end by SIGTERM.
	IgnoresTerm Behaviour = "ignores SIGTERM"
	// Forks has children that ignore SIGTERM and hold its output open, one in its process group,
	// one in a group of its own, one in a session of its own.
	Forks Behaviour = "forks"
	// Abandons forks the same children and exits with code 3 once it has connected.
	Abandons Behaviour = "abandons"

	grandchild Behaviour = "grandchild"
)

// LastWords are the lines that a worker prints that Dies, the first to its standard output, the
// second to its standard error.
const LastWords = "what is left to say\nand the reason of it\n"

// Names of the environment variables that tell a worker of the suite what it is.
const (
	// BehaviourEnv holds the worker's Behaviour.
	BehaviourEnv = "ENVIRONMENTTEST_BEHAVIOUR"
	// MarkEnv tells the processes of one test from all others.
	MarkEnv = "ENVIRONMENTTEST_MARK"
)

const argumentsHeader = "environmenttest-args"

// RunHelper makes the process a worker of the suite, and does not return, if it was started as
// one: with BehaviourEnv in its environment. TestMain calls it.
func RunHelper() {
	b := Behaviour(os.Getenv(BehaviourEnv))
	if b == "" {
		return
	}
	// Should a test fail to end it, it does so itself.
	time.AfterFunc(2*time.Minute, func() { os.Exit(99) })
	if err := behave(b); err != nil {
		fmt.Fprintln(os.Stderr, "environmenttest:", err)
		os.Exit(98)
	}
	os.Exit(0)
}

func behave(b Behaviour) error {
	switch b {
	case Connects:
		return connect()
	case NeverConnects:
		select {}
	case Dies:
		fmt.Fprintln(os.Stdout, "what is left to say")
		fmt.Fprintln(os.Stderr, "and the reason of it")
		os.Exit(3)
	case IgnoresTerm:
		signal.Ignore(syscall.SIGTERM)
		if err := connect(); err != nil {
			return err
		}
		select {} // the server may go before us
	case Forks, Abandons:
		for _, attr := range []*syscall.SysProcAttr{{}, {Setpgid: true}, {Setsid: true}} {
			if err := fork(attr); err != nil {
				return err
			}
		}
		return connect()
	case grandchild:
		signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
		os.NewFile(3, "ready").Close()
		select {}
	}
	return fmt.Errorf("unknown behaviour %q", b)
}

// fork returns when the child has arranged to ignore signals.
func fork(attr *syscall.SysProcAttr) error {
	ready, childs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        os.Args[:1],
		Env:         append(os.Environ(), BehaviourEnv+"="+string(grandchild)),
		Stdout:      os.Stdout,
		Stderr:      os.Stderr,
		ExtraFiles:  []*os.File{childs},
		SysProcAttr: attr,
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	childs.Close()
	_, err = ready.Read(make([]byte, 1)) // it closes its end
	if err == nil {
		return fmt.Errorf("grandchild %d wrote instead of closing", cmd.Process.Pid)
	}
	return nil
}

// connect opens a Control stream as a harness does and returns when the server ends it, with an
// error if it could not be opened. A worker that Abandons does not return at all.
func connect() error {
	flags := flag.NewFlagSet("worker", flag.ContinueOnError)
	id := flags.String("id", "", "")
	control := flags.String("control_endpoint", "", "")
	for _, name := range []string{"logging_endpoint", "artifact_endpoint", "provision_endpoint"} {
		flags.String(name, "", "")
	}
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	conn, err := grpc.NewClient(*control, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	ctx := metadata.AppendToOutgoingContext(context.Background(), "worker_id", *id)
	for _, arg := range os.Args[1:] {
		ctx = metadata.AppendToOutgoingContext(ctx, argumentsHeader, arg)
	}
	stream, err := fnpb.NewBeamFnControlClient(conn).Control(ctx)
	if err != nil {
		return err
	}
	if _, err := stream.Header(); err != nil { // the server has us
		return err
	}
	if Behaviour(os.Getenv(BehaviourEnv)) == Abandons {
		os.Exit(3)
	}
	stream.Recv()
	return nil
}
