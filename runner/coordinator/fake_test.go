package coordinator

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lintelrun/lintel/checkpointing"
	"github.com/lintelrun/lintel/checkpointing/memstore"
	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/metrics"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/rpc"
)

// worker is one whose tasks hold a number each, which counts the epochs that they have answered.
type worker struct {
	mu   sync.Mutex // protects what follows
	runs []*execution
	// onDeploy and onRestored, if not nil, say how that ends.
	onDeploy, onRestored func(*execution) error
	// onBarrier, if not nil, takes the place of answering it.
	onBarrier func(*execution, protocol.Begun)
	// onQuiet, if not nil, says how that ends.
	onQuiet func(context.Context, *execution) error
}

// set changes what the worker does while a job runs.
func (w *worker) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// ends returns how something ends, by one of the worker's hooks.
func (w *worker) ends(e *execution, hook *func(*execution) error) error {
	w.mu.Lock()
	ends := *hook
	w.mu.Unlock()
	if ends == nil {
		return nil
	}
	return ends(e)
}

func (w *worker) Deploy(ctx context.Context, d rpc.Deployment) (rpc.Execution, error) {
	e := newExecution(ctx)
	e.worker, e.d, e.tasks = w, d, d.Tasks()
	e.counts, e.at = make([]int, len(e.tasks)), map[uint64][]int{}
	w.mu.Lock()
	w.runs = append(w.runs, e)
	w.mu.Unlock()
	if err := w.ends(e, &w.onDeploy); err != nil {
		return nil, err
	}
	return e, nil
}

// run returns the nth deployment, from 1, or nil.
func (w *worker) run(n int) *execution {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n < 1 || n > len(w.runs) {
		return nil
	}
	return w.runs[n-1]
}

type execution struct {
	ctx     context.Context
	worker  *worker
	d       rpc.Deployment
	tasks   []protocol.Task
	result  chan error
	answers chan rpc.Answer

	restored  []int // counts at the beginning
	mu        sync.Mutex
	counts    []int
	at        map[uint64][]int // counts by epoch
	concluded []string
	begun     []protocol.Begun
	drained   bool
	held      []string // what was said of holding back
}

func newExecution(ctx context.Context) *execution {
	return &execution{ctx: ctx, result: make(chan error, 1), answers: make(chan rpc.Answer, 100)}
}

func (e *execution) Wait() error {
	select {
	case err := <-e.result:
		return err
	case <-e.ctx.Done():
		return e.ctx.Err()
	}
}

func (e *execution) Drain() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drained = true
}

func (e *execution) Metrics() (attempted, committed []*pipepb.MonitoringInfo) {
	return nil, []*pipepb.MonitoringInfo{{Urn: fmt.Sprint("generation ", e.d.Generation)}}
}

// Restored reads the counts.
func (e *execution) Restored() error {
	if r := e.d.Restore; r != nil {
		for i, t := range r.Manifest.Tasks {
			if t.Ended {
				continue
			}
			f := r.Manifest.Files[t.Parts[0].Span.File]
			in, err := r.Open(e.ctx, f)
			if err != nil {
				return err
			}
			data, err := io.ReadAll(in)
			in.Close()
			if err != nil {
				return err
			}
			if _, err := fmt.Sscan(string(data), &e.counts[i]); err != nil {
				return err
			}
		}
		e.restored = slices.Clone(e.counts)
	}
	return e.worker.ends(e, &e.worker.onRestored)
}

func (e *execution) Quiet(ctx context.Context, stay bool) error {
	e.hold(fmt.Sprint("quiet ", stay))
	e.worker.mu.Lock()
	ends := e.worker.onQuiet
	e.worker.mu.Unlock()
	if ends == nil {
		return nil
	}
	return ends(ctx, e)
}

func (e *execution) Resume() { e.hold("resume") }

func (e *execution) Finalized(context.Context) error {
	e.hold("finalized")
	return nil
}

func (e *execution) hold(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = append(e.held, what)
}

func (e *execution) Barrier(b protocol.Begun) {
	e.mu.Lock()
	e.begun = append(e.begun, b)
	e.mu.Unlock()
	e.worker.mu.Lock()
	answer := e.worker.onBarrier
	e.worker.mu.Unlock()
	if answer == nil {
		go e.answer(b)
		return
	}
	answer(e, b)
}

// answer answers for all tasks.
func (e *execution) answer(b protocol.Begun) {
	for i := range e.tasks {
		e.answers <- e.snapshot(b.Epoch, i)
	}
}

func (e *execution) snapshot(epoch uint64, task int) rpc.Answer {
	e.mu.Lock()
	e.counts[task]++
	n := e.counts[task]
	if e.at[epoch] == nil {
		e.at[epoch] = make([]int, len(e.tasks))
	}
	e.at[epoch][task] = n
	e.mu.Unlock()
	f, err := e.d.Checkpoints.Put(e.ctx, epoch, uint64(task), newReader(fmt.Sprint(n)))
	t := e.tasks[task]
	t.Parts = []protocol.Part{{Kind: protocol.Position, Span: protocol.Span{Length: f.Size}}}
	return rpc.Answer{Task: task, Epoch: epoch, Snapshot: protocol.Snapshot{Task: t, Files: []protocol.File{f}}, Metrics: e.metrics(task), Err: err}
}

// metrics count the epochs that a task has answered in this run.
func (e *execution) metrics(task int) []*pipepb.MonitoringInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.counts[task]
	if e.restored != nil {
		n -= e.restored[task]
	}
	return []*pipepb.MonitoringInfo{metrics.ElementCount("answers", int64(n))}
}

// counted returns what tasks have answered the barrier of an epoch with, nil if none has.
func (e *execution) counted(epoch uint64) []int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.at[epoch])
}

func (e *execution) Concluded(epoch uint64, complete bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.concluded = append(e.concluded, fmt.Sprint(epoch, " ", complete))
}

func (e *execution) Answers() <-chan rpc.Answer { return e.answers }

func (e *execution) said() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.concluded...)
}

// rig is a coordinator with one job's spec.
type rig struct {
	*worker
	co    *Coordinator
	store *memstore.Store
	// under is what the coordinator sees of store.
	under      checkpointing.Store
	savepoints map[string]*savepointFolder
	spec       Spec

	mu          sync.Mutex
	checkpoints []Checkpoint
	messages    []string
}

type savepointFolder struct {
	memstore.Store
	closed atomic.Bool
	// full, if true, takes nothing.
	full bool
}

func (f *savepointFolder) Create(ctx context.Context, name string, content io.ReadSeeker) error {
	if f.full {
		return fault.New(fault.Invalid, "the folder is full")
	}
	return f.Store.Create(ctx, name, content)
}

func (f *savepointFolder) Close() error {
	f.closed.Store(true)
	return nil
}

// newRig has a plan of an Impulse and a GroupByKey of 2 tasks.
func newRig(t *testing.T, options map[string]any) *rig {
	t.Helper()
	r := &rig{worker: &worker{}, store: new(memstore.Store), savepoints: map[string]*savepointFolder{}}
	r.under = r.store
	impulse := &plan.Stage{ID: "s0", Name: "Impulse", Kind: plan.Impulse, Parallelism: 1, Transforms: []string{"i"}, Bounded: true}
	group := &plan.Stage{Index: 1, ID: "s1", Name: "Group", Kind: plan.GroupByKey, Group: &plan.GroupSpec{Name: "Group", Input: layout(t), Panes: true}}
	edge := &plan.Edge{Kind: plan.Keyed, From: impulse, To: group, PCollection: "p", Coder: layout(t)}
	impulse.Out, group.In = []*plan.Edge{edge}, []*plan.Edge{edge}
	components := &pipepb.Components{Transforms: map[string]*pipepb.PTransform{"i": {UniqueName: "Impulse"}}}
	o, err := structpb.NewStruct(options)
	if err != nil {
		t.Fatal(err)
	}
	r.spec = Spec{
		ID: "job-1", Name: "job", Options: o, Pipeline: &pipepb.Pipeline{Components: components},
		Plan: &plan.Plan{Stages: []*plan.Stage{impulse, group}, Edges: []*plan.Edge{edge}, Components: components},
		Log: func(m rpc.Message) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.messages = append(r.messages, m.Text)
		},
		Checkpoint: func(c Checkpoint) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.checkpoints = append(r.checkpoints, c)
		},
	}
	return r
}

func layout(t *testing.T) *coders.Windowed {
	t.Helper()
	all := map[string]*pipepb.Coder{}
	for id, c := range map[string][]string{
		"bytes": {"beam:coder:bytes:v1"}, "kv": {"beam:coder:kv:v1", "bytes", "bytes"}, "window": {"beam:coder:global_window:v1"},
		"windowed": {"beam:coder:windowed_value:v1", "kv", "window"},
	} {
		all[id] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: c[0]}, ComponentCoderIds: c[1:]}
	}
	w, err := coders.CompileWindowed("windowed", all)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// start starts the job, in a new coordinator as after a restart of the process.
func (r *rig) start(ctx context.Context, t *testing.T) *Job {
	t.Helper()
	j, err := r.tryStart(ctx, t)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func (r *rig) tryStart(ctx context.Context, t *testing.T) (*Job, error) {
	t.Helper()
	var err error
	r.co, err = New(Config{
		Worker: r.worker, Parallelism: 2, Logger: slog.New(slog.DiscardHandler),
		Checkpoints: &Checkpoints{Store: r.under, Dir: t.TempDir(), Savepoints: r.openSavepoint},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.co.Start(ctx, r.spec)
}

func (r *rig) openSavepoint(_ context.Context, uri string) (SavepointStore, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.savepoints[uri] == nil {
		r.savepoints[uri] = &savepointFolder{}
	}
	return r.savepoints[uri], nil
}

// complete are the epochs that the job was told of.
func (r *rig) complete() (epochs []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.checkpoints {
		if c.Err == nil {
			epochs = append(epochs, c.Epoch)
		}
	}
	return epochs
}

func (r *rig) failed() (texts []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.checkpoints {
		if c.Err != nil {
			texts = append(texts, c.Err.Error())
		}
	}
	return texts
}

// sleep lets the time of a bubble pass and everybody come to rest.
func sleep(d time.Duration) {
	<-time.After(d + time.Millisecond)
	synctest.Wait()
}
