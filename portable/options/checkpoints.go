package options

import (
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/internal/fault"
)

// Checkpoints are when a job takes checkpoints. Zero values mean the runner's defaults.
type Checkpoints struct {
	// Interval from one to the next.
	Interval time.Duration
	// Off is true where the user wants none.
	Off bool
	// MinPause between two, and Timeout of one.
	MinPause, Timeout time.Duration
	// MaxFailures in a row that the job survives.
	MaxFailures int
	// Concurrent is how many may be under way at once.
	Concurrent int
	// Retain is how many of the newest to keep.
	Retain int
}

// Restart is what becomes of a job with checkpoints after a failure that may not come again. Zero
// values mean the runner's defaults.
type Restart struct {
	// Attempts within Window; Never and Always are where the user asks for none, and for any number.
	Attempts      int
	Never, Always bool
	Window        time.Duration
	// Delay before the first restart, doubled with each further one in Window up to MaxDelay.
	Delay, MaxDelay time.Duration
}

// NeedCheckpoints returns the names of the options given that mean nothing to a job without checkpoints.
func (o *Options) NeedCheckpoints() (names []string) {
	c, r := o.Checkpoints, o.Restart
	for _, option := range []struct {
		name  string
		given bool
	}{
		{"checkpoint_interval", c.Interval > 0},
		{"checkpoint_min_pause", c.MinPause > 0},
		{"checkpoint_timeout", c.Timeout > 0},
		{"checkpoint_max_failures", c.MaxFailures > 0},
		{"checkpoint_concurrent", c.Concurrent > 0},
		{"checkpoint_retain", c.Retain > 0},
		{"restart_attempts", r.Attempts > 0 || r.Always},
		{"restart_window", r.Window > 0},
		{"restart_delay", r.Delay > 0},
		{"restart_max_delay", r.MaxDelay > 0},
		{"restore_from", o.RestoreFrom != ""},
		{"update", o.Update},
		{"update_job", o.UpdateJob != ""},
		{"update_savepoint", o.UpdateSavepoint != ""},
		{"allow_dropped_state", len(o.AllowDroppedState) > 0},
		{"transform_name_mapping", len(o.TransformNames) > 0},
	} {
		if option.given {
			names = append(names, option.name)
		}
	}
	return names
}

// validateCheckpoints checks options that only make sense together.
func (o *Options) validateCheckpoints() error {
	c, r := o.Checkpoints, o.Restart
	switch {
	case c.MinPause > 0 && c.Concurrent > 1:
		return fault.New(fault.Invalid, "pipeline option \"checkpoint_min_pause\" is %v, and \"checkpoint_concurrent\" %d: with a pause between them there is one at a time", c.MinPause, c.Concurrent)
	case r.MaxDelay > 0 && r.Delay > r.MaxDelay:
		return fault.New(fault.Invalid, "pipeline option \"restart_delay\" is %v, more than \"restart_max_delay\", %v", r.Delay, r.MaxDelay)
	case o.RestoreFrom != "" && o.Updates():
		return fault.New(fault.Invalid, "pipeline options \"restore_from\" and \"update\" or \"update_job\" say both what the job begins with: want one of them")
	case !o.Updates() && o.UpdateSavepoint != "":
		return fault.New(fault.Invalid, "pipeline option \"update_savepoint\" goes with \"update\" or \"update_job\"")
	case o.RestoreFrom == "" && !o.Updates() && len(o.AllowDroppedState) > 0:
		return fault.New(fault.Invalid, "pipeline option \"allow_dropped_state\" is of the state in a savepoint: it goes with \"restore_from\" or \"update\"")
	case o.RestoreFrom == "" && !o.Updates() && len(o.TransformNames) > 0:
		return fault.New(fault.Invalid, "pipeline option \"transform_name_mapping\" is of names in a savepoint: it goes with \"restore_from\" or \"update\"")
	}
	return nil
}

// checkpoints reads when checkpoints are taken; an interval of 0 is none.
func (r *reader) checkpoints() Checkpoints {
	interval, given := r.duration("checkpoint_interval", 0)
	c := Checkpoints{
		Interval: interval, Off: given && interval == 0,
		MaxFailures: r.number("checkpoint_max_failures"), Concurrent: r.number("checkpoint_concurrent"), Retain: r.number("checkpoint_retain"),
	}
	c.MinPause, _ = r.duration("checkpoint_min_pause", 0)
	c.Timeout, _ = r.duration("checkpoint_timeout", time.Millisecond)
	return c
}

// restart reads how often a job is started again: -1 attempts are any number.
func (r *reader) restart() Restart {
	_, given := r.get("restart_attempts")
	s := Restart{Attempts: r.number("restart_attempts")}
	s.Never = given != nil && s.Attempts == 0
	if s.Attempts == -1 {
		s.Attempts, s.Always = 0, true
	}
	s.Window, _ = r.duration("restart_window", time.Millisecond)
	s.Delay, _ = r.duration("restart_delay", time.Millisecond)
	s.MaxDelay, _ = r.duration("restart_max_delay", time.Millisecond)
	return s
}

// duration reads a length of time with its unit, such as 10s or 500ms, of least or more; only 0 has none.
func (r *reader) duration(name string, least time.Duration) (d time.Duration, given bool) {
	_, v := r.get(name)
	want := "a length of time with its unit, such as 10s or 500ms"
	switch k := v.GetKind().(type) {
	case nil:
		return 0, false
	case *structpb.Value_NumberValue:
		given = k.NumberValue == 0
	case *structpb.Value_StringValue:
		if k.StringValue == "" {
			return 0, false
		}
		var err error
		d, err = time.ParseDuration(k.StringValue)
		given = err == nil && d >= 0
	}
	if given && d < least {
		given, want = false, want+", and at least "+least.String()
	}
	if !given {
		r.bad(name, v, want)
		return 0, false
	}
	return d, true
}

const wantNames = `an object of old names to new ones, such as {"Old/Name": "New/Name"}`

// names reads a mapping of names, a JSON object or such as text.
func (r *reader) names(name string) map[string]string {
	_, v := r.get(name)
	fields := v.GetStructValue().GetFields()
	switch k := v.GetKind().(type) {
	case nil:
		return nil
	case *structpb.Value_StringValue:
		var s structpb.Struct
		if k.StringValue == "" {
			return nil
		}
		if s.UnmarshalJSON([]byte(k.StringValue)) != nil {
			r.bad(name, v, wantNames)
			return nil
		}
		fields = s.GetFields()
	case *structpb.Value_StructValue:
	default:
		r.bad(name, v, wantNames)
		return nil
	}
	all := make(map[string]string, len(fields))
	for from, to := range fields {
		if all[from] = to.GetStringValue(); all[from] == "" {
			r.bad(name, v, wantNames)
			return nil
		}
	}
	return all
}
