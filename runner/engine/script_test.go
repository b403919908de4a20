package engine

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lintelrun/lintel/internal/testkit"
	"github.com/lintelrun/lintel/runner/frame"
)

var update = flag.Bool("update", false, "write what scripts put out as what to expect")

// TestScripts runs testdata/*.script: what happens to a task, line by line, and
// indented below each line what the task asks for then. Every element is one
// letter. Lines that begin with # and empty ones are for the reader.
//
//	task [main=N] [side=N] [splittable=1] [inflight=N] [attempts=N] [first=N] [elements=N] [bytes=N]
//	frame LETTERS at TIME        input arrives
//	watermark [CHANNEL] TIME     of a main channel
//	side [CHANNEL] TIME          of a side input
//	ok BUNDLE [took D] [output BYTES] [residual LETTER hold TIME [delay D]]...
//	fail BUNDLE TEXT
//	block, unblock               as the output waits for credit, or no longer
//	wait D                       time passes
//	drain                        the job is to come to an end
//	hold, release                nothing begins by itself, or it does again; then it is printed if the task is at rest
//	snapshot                     is taken; it is printed
//	restore                      a new task goes on from the snapshot
//
// A TIME is in ms, or "begin" or "end", or "end-1".
func TestScripts(t *testing.T) {
	testkit.Scripts(t, *update, func(out *strings.Builder) func([]string) error {
		return (&script{now: time.Unix(0, 0), out: out}).line
	})
}

type script struct {
	cfg      Config
	task     *Task
	snapshot *Snapshot
	now      time.Time
	out      *strings.Builder
}

func (s *script) line(words []string) error {
	command, args := words[0], words[1:]
	switch command {
	case "task":
		return s.newTask(args)
	case "frame":
		return s.frame(args)
	case "watermark":
		return s.advance(args, s.task.Watermark)
	case "side":
		return s.advance(args, s.task.SideWatermark)
	case "ok":
		return s.ok(args)
	case "fail":
		id, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		if err := s.task.Failed(BundleID(id), errors.New(strings.Join(args[1:], " "))); err != nil {
			s.print("the task fails: %v", err)
			return nil
		}
	case "block", "unblock":
		s.task.Block(command == "block")
	case "wait":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			return err
		}
		s.now = s.now.Add(d)
	case "drain":
		s.task.Drain(s.now)
	case "hold":
		s.task.Hold(s.now)
	case "release":
		s.task.Release()
	case "snapshot":
		s.snapshot = s.task.Snapshot()
		s.printSnapshot()
		return nil
	case "restore":
		s.cfg.Restore = s.snapshot
		s.task = NewTask(s.cfg)
	default:
		return errors.New("no such command")
	}
	return s.ready()
}

func (s *script) print(format string, args ...any) {
	fmt.Fprintf(s.out, "\t"+format+"\n", args...)
}

func (s *script) newTask(args []string) error {
	cfg := Config{Main: 1, Cut: func(_ []byte, n int) (int, error) { return n, nil }}
	splittable := 0
	options := map[string]*int{
		"splittable": &splittable,
		"main":       &cfg.Main, "side": &cfg.Side, "inflight": &cfg.InFlight, "attempts": &cfg.Attempts,
		"first": &cfg.Limits.First, "elements": &cfg.Limits.Elements, "bytes": &cfg.Limits.Bytes,
	}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		n, err := strconv.Atoi(value)
		if err != nil || options[name] == nil {
			return fmt.Errorf("%q is no option", arg)
		}
		*options[name] = n
	}
	cfg.Splittable = splittable > 0
	cfg.Checkpoints.Unbounded = cfg.Splittable
	s.cfg, s.task = cfg, NewTask(cfg)
	return s.ready()
}

func (s *script) frame(args []string) error {
	if len(args) != 3 || args[1] != "at" {
		return errors.New("want LETTERS at TIME")
	}
	ts, err := parseTime(args[2])
	s.task.Frame(frame.Frame{Data: []byte(args[0]), Elements: len(args[0]), MinTimestamp: ts}, s.task.ChannelWatermark())
	return errors.Join(err, s.ready())
}

func (s *script) advance(args []string, advance func(int, int64)) error {
	channel := 0
	if len(args) == 2 {
		var err error
		if channel, err = strconv.Atoi(args[0]); err != nil {
			return err
		}
		args = args[1:]
	}
	ts, err := parseTime(args[0])
	advance(channel, ts)
	return errors.Join(err, s.ready())
}

func (s *script) ok(args []string) error {
	id, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var r Result
	for args = args[1:]; len(args) > 1; args = args[2:] {
		value := args[1]
		var err error
		switch last := len(r.Residuals) - 1; args[0] {
		case "took":
			var d time.Duration
			d, err = time.ParseDuration(value)
			s.now = s.now.Add(d)
		case "output":
			r.OutputBytes, err = strconv.Atoi(value)
		case "residual":
			f := frame.Frame{Data: []byte(value), Elements: len(value), MinTimestamp: frame.MinTimestamp}
			r.Residuals = append(r.Residuals, Residual{Frame: f})
		case "hold":
			r.Residuals[last].OutputWatermark, err = parseTime(value)
		case "delay":
			r.Residuals[last].Delay, err = time.ParseDuration(value)
		default:
			err = fmt.Errorf("%q is no option", args[0])
		}
		if err != nil {
			return err
		}
	}
	s.task.Succeeded(BundleID(id), r, s.now)
	return s.ready()
}

// ready prints what the task asks for.
func (s *script) ready() error {
	r, err := s.task.Ready(s.now)
	if err != nil {
		return err
	}
	if r.Consumed > 0 {
		s.print("credit %d", r.Consumed)
	}
	for _, b := range r.Start {
		again := ""
		if b.Attempt > 1 {
			again = fmt.Sprintf(", attempt %d", b.Attempt)
		}
		s.print("start bundle %d: %s%s", b.ID, join(b.Frames), again)
	}
	if r.Advanced {
		s.print("watermark %s", formatTime(r.Watermark))
	}
	for _, split := range r.Splits {
		s.print("interrupt bundle %d", split.ID)
	}
	if s.task.AtRest() {
		s.print("at rest")
	}
	if !r.Wake.IsZero() {
		s.print("wake in %v", r.Wake.Sub(s.now))
	}
	if r.Done {
		s.print("done")
	}
	return nil
}

// printSnapshot prints the snapshot, all but times that are the first or last of all.
func (s *script) printSnapshot() {
	n := s.snapshot
	s.print("channels %s, input %s, output %s", formatTimes(append(n.Main, n.Side...)), formatTime(n.Input), formatTime(n.Output))
	for _, b := range n.Bundles {
		var frames []string
		for _, f := range b.Frames {
			frames = append(frames, string(f.Data)+heldAt(f.OutputHold))
		}
		s.print("bundle %s%s", strings.Join(frames, ", "), heldAt(b.InputHold))
		s.printResiduals("\trest", b.Rest)
	}
	for _, f := range n.Inbox {
		s.print("inbox %s%s", f.Data, heldAt(f.Hold))
	}
	s.printResiduals("residual", n.Residuals)
	s.print("%d bytes", n.Bytes())
}

func (s *script) printResiduals(what string, all []PendingResidual) {
	for _, r := range all {
		s.print("%s %s%s in %v", what, r.Data, heldAt(r.OutputHold), r.At.Sub(s.now))
	}
}

func heldAt(ts int64) string {
	if ts == frame.MaxTimestamp {
		return ""
	}
	return " hold " + formatTime(ts)
}

func formatTimes(all []int64) string {
	var out []string
	for _, ts := range all {
		out = append(out, formatTime(ts))
	}
	return strings.Join(out, " ")
}

var namedTimes = map[string]int64{"begin": frame.MinTimestamp, "end": frame.MaxTimestamp, "end-1": frame.MaxTimestamp - 1}

func parseTime(word string) (int64, error) {
	if ts, ok := namedTimes[word]; ok {
		return ts, nil
	}
	return strconv.ParseInt(word, 10, 64)
}

func formatTime(ts int64) string {
	for name, named := range namedTimes {
		if ts == named {
			return name
		}
	}
	return strconv.FormatInt(ts, 10)
}
