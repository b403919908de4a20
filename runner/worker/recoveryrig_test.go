package worker

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/checkpointing/protocol"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/metrics"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/runner/keygroup"
	"github.com/lintelrun/lintel/runner/rpc"
)

// files is a store of checkpoints in memory, of which one generation puts.
type files struct {
	mu         sync.Mutex
	generation uint64
	all        map[protocol.FileID][]byte
	// put, if not nil, may refuse a file.
	put func(ctx context.Context, epoch, task uint64) error
}

func (f *files) Put(ctx context.Context, epoch, task uint64, content io.ReadSeeker) (protocol.File, error) {
	if f.put != nil {
		if err := f.put(ctx, epoch, task); err != nil {
			return protocol.File{}, err
		}
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return protocol.File{}, err
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return protocol.File{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id := protocol.FileID{Epoch: epoch, Generation: f.generation, Task: task}
	for f.all[id] != nil {
		id.Number++
	}
	if f.all == nil {
		f.all = map[protocol.FileID][]byte{}
	}
	f.all[id] = data
	return protocol.File{FileID: id, Size: int64(len(data)), CRC32C: crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))}, nil
}

// copy returns all files, for another store.
func (f *files) copy() map[protocol.FileID][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.all)
}

func (f *files) open(_ context.Context, file protocol.File) (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	data, ok := f.all[file.FileID]
	if !ok || int64(len(data)) != file.Size {
		return nil, fault.New(fault.Corruption, "no file %s of %d bytes", file.Name(), file.Size)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// recovery is a job that is ended now and then and goes on from its newest checkpoint.
type recovery struct {
	t     *testing.T
	r     *rig
	store files
	rand  *rand.Rand
	// newest is the newest checkpoint, nil before there is one.
	newest *protocol.Manifest
	epoch  uint64
	// with are kinds of parts of which the job goes on from a checkpoint with one, first of all, if there are any.
	with []protocol.PartKind
	// took has how long each checkpoint took.
	took []time.Duration
	// last is the newest run.
	last rpc.Execution
	// latest is the checkpoint that was complete last.
	latest *protocol.Manifest
	// checked, if not nil, looks at each checkpoint.
	checked func(*protocol.Manifest)
	// taken counts the checkpoints, and found the parts by kind of those that it went on from.
	taken int
	found map[protocol.PartKind]int
}

func newRecovery(t *testing.T, r *rig, seed uint64) *recovery {
	return &recovery{t: t, r: r, found: map[protocol.PartKind]int{}, rand: rand.New(rand.NewPCG(seed, 0))}
}

// to runs the job to its end, with so many ends on the way, each soon after a checkpoint.
func (v *recovery) to(p *plan.Plan, ends int) {
	v.t.Helper()
	if !inPanes(p) {
		v.t.Fatal("this plan takes no checkpoints")
	}
	v.r.deployment.Plan = p
	for i := range ends {
		last := v.taken + v.rand.IntN(12)
		if i < len(v.with) {
			last = v.taken
		}
		if v.run(func() bool { return v.taken > last && (i >= len(v.with) || v.has(v.with[i])) }) {
			return
		}
	}
	if !v.run(func() bool { return false }) {
		v.t.Error("the job did not end")
	}
}

// has tells whether the newest checkpoint has a part of a kind.
func (v *recovery) has(kind protocol.PartKind) bool {
	for _, task := range v.newest.Tasks {
		if slices.ContainsFunc(task.Parts, func(p protocol.Part) bool { return p.Kind == kind }) {
			return true
		}
	}
	return false
}

// run runs a generation until it is to stop, or to its end: then it returns true.
func (v *recovery) run(stop func() bool) bool {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	v.store.generation++
	d := v.r.deployment
	d.Generation, d.Checkpoints = v.store.generation, &v.store
	if v.newest != nil {
		for _, task := range v.newest.Tasks {
			for _, part := range task.Parts {
				v.found[part.Kind]++
			}
		}
		d.Restore = &rpc.Restore{Manifest: v.newest, Same: true, Open: v.store.open, Metrics: metricsOf(v.t, v.newest)}
	}
	e := v.r.start(ctx, d)
	if err := e.Restored(); err != nil {
		v.t.Fatal(err)
	}
	g := v.generation(e, &d)
	tick := time.NewTicker(time.Duration(1+v.rand.IntN(5)) * time.Millisecond)
	defer tick.Stop()
	answers := e.Answers()
	for answers != nil {
		select {
		case <-tick.C:
			if stop() {
				cancel()
			} else if len(g.snapshots) < 2 {
				g.begin()
			}
		case a, ok := <-answers:
			if !ok {
				answers = nil
				break
			}
			g.answer(a)
		}
	}
	err := v.r.wait(e)
	v.last = e
	if err != nil && !errors.Is(err, context.Canceled) {
		v.t.Fatal(err)
	}
	return err == nil
}

// generation takes checkpoints of one run of a job.
type generation struct {
	*recovery
	e         rpc.Execution
	tasks     []protocol.Task
	began     map[uint64]time.Time
	snapshots map[uint64][]*protocol.Snapshot // by epoch under way
	over      map[uint64]*protocol.Manifest
	ended     []bool
	// counted has the metrics of tasks by epoch, 0 for those that have ended, and place; before those of the
	// checkpoint that it went on from.
	counted map[[2]uint64][]*pipepb.MonitoringInfo
	before  []*pipepb.MonitoringInfo
}

// generation is a run of a deployment.
func (v *recovery) generation(e rpc.Execution, d *rpc.Deployment) *generation {
	tasks := d.Tasks()
	return &generation{
		recovery: v, e: e, tasks: tasks, ended: make([]bool, len(tasks)), began: map[uint64]time.Time{},
		snapshots: map[uint64][]*protocol.Snapshot{}, over: map[uint64]*protocol.Manifest{},
		counted: map[[2]uint64][]*pipepb.MonitoringInfo{}, before: d.Restore.Counted(),
	}
}

func (g *generation) begin() {
	g.epoch++
	b := protocol.Begun{Epoch: g.epoch}
	if g.newest != nil {
		b.Over = g.newest.Epoch
	}
	g.snapshots[g.epoch], g.over[g.epoch] = make([]*protocol.Snapshot, len(g.tasks)), g.newest
	g.began[g.epoch] = time.Now()
	g.e.Barrier(b)
	if g.rand.IntN(8) == 0 { // it comes to nothing
		delete(g.snapshots, g.epoch)
		g.e.Concluded(g.epoch, false)
	}
}

func (g *generation) answer(a rpc.Answer) {
	switch {
	case a.Ended:
		g.ended[a.Task] = true
		g.counted[[2]uint64{0, uint64(a.Task)}] = a.Metrics
	case g.snapshots[a.Epoch] == nil: // it has ended
		return
	case a.Err != nil:
		if !errors.Is(a.Err, context.Canceled) {
			g.t.Errorf("task %d has no snapshot of epoch %d: %v", a.Task, a.Epoch, a.Err)
		}
		delete(g.snapshots, a.Epoch)
		g.e.Concluded(a.Epoch, false)
		return
	case g.ended[a.Task]:
		g.t.Errorf("task %d answers epoch %d after it has ended", a.Task, a.Epoch)
	default:
		g.snapshots[a.Epoch][a.Task] = &a.Snapshot
		g.counted[[2]uint64{a.Epoch, uint64(a.Task)}] = a.Metrics
	}
	for _, epoch := range slices.Sorted(maps.Keys(g.snapshots)) {
		g.complete(epoch)
	}
}

// complete makes a checkpoint of an epoch if all tasks have answered.
func (g *generation) complete(epoch uint64) {
	for i, s := range g.snapshots[epoch] {
		if s == nil && !g.ended[i] {
			return
		}
	}
	header := protocol.Manifest{Epoch: epoch, Generation: g.store.generation, KeyGroups: keygroup.DefaultMax, Metrics: g.encoded(epoch)}
	m, err := protocol.Assemble(header, g.snapshots[epoch], g.tasks)
	if err == nil {
		err = m.Validate()
	}
	if err != nil {
		g.t.Fatal(err)
	}
	for _, f := range m.Files {
		if f.Epoch != epoch && (g.over[epoch] == nil || !slices.Contains(g.over[epoch].Files, f)) {
			g.t.Errorf("epoch %d has file %s, which is not its own", epoch, f.Name())
		}
	}
	if m, err = protocol.DecodeManifest(m.Encode()); err != nil {
		g.t.Fatal(err)
	}
	delete(g.snapshots, epoch)
	g.latest = m
	if g.newest == nil || epoch > g.newest.Epoch { // they may be complete in another order
		g.newest = m
	}
	g.taken++
	g.took = append(g.took, time.Since(g.began[epoch]))
	if g.checked != nil {
		g.checked(m)
	}
	g.e.Concluded(epoch, true)
}

// encoded are the metrics of an epoch, as manifests have them.
func (g *generation) encoded(epoch uint64) (encoded []string) {
	all := metrics.NewTotals()
	all.Add(g.before)
	for i, s := range g.snapshots[epoch] {
		if s == nil {
			all.Add(g.counted[[2]uint64{0, uint64(i)}])
		} else {
			all.Add(g.counted[[2]uint64{epoch, uint64(i)}])
		}
	}
	for _, info := range all.Infos() {
		b, err := proto.Marshal(info)
		if err != nil {
			g.t.Fatal(err)
		}
		encoded = append(encoded, string(b))
	}
	return encoded
}

// metricsOf reads the metrics of a manifest.
func metricsOf(t *testing.T, m *protocol.Manifest) (infos []*pipepb.MonitoringInfo) {
	for _, b := range m.Metrics {
		info := new(pipepb.MonitoringInfo)
		if err := proto.Unmarshal([]byte(b), info); err != nil {
			t.Fatal(err)
		}
		infos = append(infos, info)
	}
	return infos
}
