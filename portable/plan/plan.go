// Package plan holds what portable makes of a pipeline: stages joined by edges,
// in a form that the runner executes without reading pipeline protos again.
package plan

import (
	"slices"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/windowing"
)

// Plan is an executable form of one pipeline. It is immutable once made and may
// be shared between goroutines.
type Plan struct {
	// Stages in topological order: a stage comes after all that feed it.
	// Stage.Index is the position in this slice.
	Stages []*Stage
	// Edges of all stages; Edge.Index is the position in this slice.
	Edges []*Edge
	// Environments used by executable stages and calls, by the pipeline's own ids
	// (ids of equal environments are merged into one).
	Environments map[string]*pipepb.Environment
	// Calls are all functions that runner stages, and elements that wait, need SDKs for.
	// Those of several stages that ask for the same are one.
	Calls []*Call
	// Components of the pipeline as submitted, for names in metrics and
	// messages. Never changed.
	Components *pipepb.Components
	// Origins has, for transforms in descriptors that the pipeline lacks (the
	// parts of combines and splittable DoFns), the pipeline's id of the transform
	// that each is part of. Metrics and messages name that one.
	Origins map[string]string
	// Wired has, for PCollections that no stage makes, those whose elements make them
	// up, one entry for each time that they do: the outputs of Flattens and
	// redistributions, which are edges, and what a combine's own GroupByKey would have
	// made. All else that the plan lacks is within composites that it does otherwise.
	Wired map[string][]string
}

// Virtual tells whether the job's clock is a TestStream's. Its stages have one task each.
func (p *Plan) Virtual() bool {
	return slices.ContainsFunc(p.Stages, func(s *Stage) bool { return s.Kind == TestStream })
}

// Bounded tells whether all input comes to an end by itself, and all work on it.
func (p *Plan) Bounded() bool {
	return !slices.ContainsFunc(p.Stages, func(s *Stage) bool { return !s.Bounded || s.Exec != nil && s.Exec.Unbounded })
}

// Snapshots tells whether snapshots can be taken of all stages: no group and no side input is where
// it can only be read when all input has come. All plans for checkpoints are such.
func (p *Plan) Snapshots() bool {
	return !slices.ContainsFunc(p.Stages, func(s *Stage) bool {
		return s.Kind == GroupByKey && !s.Group.Panes || s.Kind == SideInput && s.Side.Group == nil
	})
}

// StageKind says who runs a stage and how.
type StageKind int

const (
	// Executable stages run fused user transforms in an SDK harness.
	Executable StageKind = iota
	// Impulse emits one empty byte string in the global window at the minimum timestamp.
	Impulse
	// GroupByKey groups KV elements by key and window.
	GroupByKey
	// SideInput materialises a PCollection per window for look-ups by other stages.
	SideInput
	// TestStream replays events under the job's virtual clock (TestStreamPayload).
	TestStream
)

// Stage is a unit of scheduling. Exactly one of the pointers below is set,
// according to Kind (Impulse has none).
type Stage struct {
	Index int
	// ID is unique in the plan and stable for the same pipeline ("s4").
	ID string
	// Name is for people: the unique names of the user's transforms in it.
	Name string
	Kind StageKind
	// Transforms are the pipeline ids of the transforms that the stage performs.
	Transforms []string
	// Output is the PCollection that an Impulse or GroupByKey stage makes, else "".
	Output string
	// Parallelism is the number of tasks, 0 for the job's default.
	Parallelism int
	// Bounded is true where all input comes to an end by itself. None of it is late:
	// the stage's watermark moves once, from the beginning to the end of time, so that
	// timestamps may be set anew however the user likes.
	Bounded bool

	Exec  *ExecutableSpec
	Group *GroupSpec
	Side  *SideSpec
	Test  *TestStreamSpec

	// In are the edges that end here, main inputs first; Out those that begin here.
	// The same PCollection may come several times, and then counts as often. A stage
	// other than an Impulse may have no main inputs: it reads a Flatten of nothing.
	// Its input is empty and complete from the start.
	In, Out []*Edge
}

// EdgeKind says how elements travel to the tasks of the next stage.
type EdgeKind int

const (
	// Forward keeps elements on the task of the same index (modulo parallelism).
	Forward EdgeKind = iota
	// Keyed sends an element to the task that owns the key group of its key.
	Keyed
	// Rebalance spreads elements evenly, without regard to keys.
	Rebalance
	// Broadcast edges leave SideInput stages. Only watermarks travel on them;
	// the data is read from the side input's store.
	Broadcast
)

// Edge carries one PCollection from a stage to one other stage.
type Edge struct {
	Index int
	Kind  EdgeKind
	From  *Stage
	To    *Stage
	// Sink is the id of the sink transform in From's descriptor whose output
	// this edge carries; empty where From is a runner stage.
	Sink string
	// PCollection is the pipeline's id of what travels here, as the producer named it.
	PCollection string
	// Coder is the layout of the elements on the wire; both ends use it.
	Coder *coders.Windowed
}

// Waits tells whether anything of a job with checkpoints waits for them: input that is to be stable, or bundles that are to be
// finalised.
func (p *Plan) Waits() bool {
	return slices.ContainsFunc(p.Stages, func(s *Stage) bool { return s.Exec != nil && (s.Exec.StableInput || s.Exec.Finalizes) })
}

// ExecutableSpec is what a harness needs to run a stage.
type ExecutableSpec struct {
	Environment string
	// Descriptor lacks an id and service descriptors, which the worker adds to a copy.
	// Source and sink payloads are RemoteGrpcPorts with coder ids and no endpoint.
	Descriptor *fnpb.ProcessBundleDescriptor
	// Transforms are the descriptor's, but for source and sinks, in topological order.
	Transforms []string
	// Source is the id of the one source transform.
	Source string
	// Sinks are the ids of all sink transforms, sorted.
	Sinks []string
	// SideInputs that the stage's transforms read.
	SideInputs []SideInputRef
	// Splittable is true where the stage's root is an SDF's process transform;
	// its elements stand for work of unknown size, so bundles start small.
	Splittable bool
	// Unbounded is true where the root of a Splittable stage may work on an element
	// without end, as far as the pipeline says.
	Unbounded bool
	// Draining takes the place of Descriptor where a job is drained: the elements of
	// a Splittable stage are truncated before they are processed. Nil in other stages
	// and where the SDK can't.
	Draining *fnpb.ProcessBundleDescriptor
	// Empty takes the place of Descriptor for groups that have no values, where groups are of
	// accumulators and panes of them may be empty: it combines no values, in place of merging
	// no accumulators, which not all CombineFns can. Such elements share bundles with no others.
	// Nil in other stages.
	Empty *fnpb.ProcessBundleDescriptor
	// FewBundles is true where a transform writes a file for each bundle, so that input
	// which is bounded should go into few and large ones (WriteFilesPayload).
	FewBundles bool
	// Finalizes is true where a transform asks for bundle finalisation.
	Finalizes bool
	// StableInput is true where the stage's root is to see the same input in each attempt, whatever fails in between.
	StableInput bool
	// Stateful is set where the stage's root keeps state or sets timers.
	Stateful *StatefulSpec
}

// StatefulSpec is what state and timers of a stage's root need.
type StatefulSpec struct {
	// Transform is the root's id, as in StateKeys and timers.
	Transform string
	// Name is the root's unique name in the pipeline, by which its state is
	// kept: another plan of the same pipeline finds it again.
	Name string
	// States that the root declares, by their ids.
	States map[string]State
	// Timers are the root's timer families, by name.
	Timers []TimerFamily
	// Layout of all timers.
	Layout *coders.Timers
	// Windowing of the input.
	Windowing *windowing.Strategy
	// TimeSorted is true where elements of a key are to come in the order of their
	// timestamps, and those that come too late for that not at all.
	TimeSorted bool
	// Expiration names the family that fires when a window expires, or is "".
	Expiration string
}

// State is one of the states that a DoFn declares. Its coder says where what is
// read of it can be cut; it is nil where the runner does not know that.
type State struct {
	// Value is the layout of the elements of a bag, or of a multimap's values.
	Value *coders.Coder
}

// TimerFamily is one of the timer families that a DoFn declares.
type TimerFamily struct {
	Name string
	// ProcessingTime families fire by the clock, others by the watermark.
	ProcessingTime bool
}

// SideInputRef ties one side input of one transform to the stage that materialises it.
type SideInputRef struct {
	// Transform and Name as in StateKeys: transform id in the descriptor, local input name.
	Transform, Name string
	// Stage is the SideInput stage.
	Stage *Stage
	// Mapping takes windows of the main input to those of the side input.
	Mapping WindowMapping
}

// WindowMapping takes a window of a main input to the one of a side input that
// its elements read (SideInput.window_mapping_fn).
type WindowMapping struct {
	// Call computes it in the SDK; nil where the runner can.
	Call *Call
	// Identity is true where the windows are the same.
	Identity bool
	// Main is the windowing of the main input.
	Main *windowing.Strategy
	// Windowing of the side input. Unless there is a Call, or Identity, the window is the
	// one, the earliest if there are several, that it assigns to the maximum timestamp of
	// the main window (windowing.Strategy.WindowAt).
	Windowing *windowing.Strategy
}

// GroupSpec is how a GroupByKey stage groups.
type GroupSpec struct {
	// Input is the layout of KV<K, V> on the way in. The output is
	// KV<K, iterable<V>> with the same key, value and window encodings.
	Input     *coders.Windowed
	Windowing *windowing.Strategy
	// StateBacked is true where all readers take state-backed iterables.
	StateBacked bool
	// BatchSize is how many values one element of the output has at most, 0 if any
	// number: those of a key and window leave in several.
	BatchSize uint64
	// Panes is true where groups leave as triggers and the watermark say: where the
	// input is unbounded, a trigger may fire more than once or the job takes checkpoints. Else
	// each key and window leaves once, when all input has come.
	Panes bool
	// Bounded is true where the input is bounded: elements fire no panes, only time and the end.
	Bounded bool
	// Name is the transform's unique name in the pipeline, by which its state is kept.
	Name string
	// Merge is how the SDK merges windows, nil where the runner knows how or none merge.
	Merge *Call
	// Combine is how the SDK merges accumulators, where Panes are of accumulators of a
	// CombineFn; nil where values are something else.
	Combine *Call
}

// Call is a function that only the SDK can compute and the runner needs outside of executable
// stages: merging windows (beam:transform:merge_windows:v1), mapping those of a main input to
// those of a side input (beam:transform:map_windows:v1), or merging accumulators
// (beam:transform:combine_per_key_merge_accumulators:v1).
type Call struct {
	// ID is unique among the ids of calls and stages of the plan, and stable for the
	// same pipeline ("c0").
	ID          string
	Environment string
	// Name is for people: what it does.
	Name string
	// Descriptor as in ExecutableSpec, with one source, the call and one sink.
	Descriptor   *fnpb.ProcessBundleDescriptor
	Source, Sink string
	// Input is the layout of what goes in, one element for each call. For windows that is a
	// global windowed value, KV<nonce, iterable<W>> to merge, KV<nonce, W> to map; nonces are
	// any bytes. For accumulators it is a KV<K, iterable<A>> in the window that they are of.
	Input *coders.Windowed
	// Output is the layout of what comes back: KV<nonce, KV<iterable<W>,
	// iterable<KV<W, iterable<W>>>>>, the windows that stay and those made of others, and of
	// which; or KV<nonce, W>; or KV<K, A>, with the timestamp and window that went in.
	Output *coders.Windowed
}

// TestStreamSpec is what a TestStream stage replays.
type TestStreamSpec struct {
	// Outputs are the PCollections that it makes, by the tag of their events. The
	// out edges of the stage carry them (Edge.PCollection).
	Outputs map[string]string
	// Delimited is true where the elements of events are encoded as on the wire. Else
	// they lack the length prefix that they have there: SDKs write them in the outer context.
	Delimited bool
	// Events in order; nil if Endpoint is set.
	Events []*pipepb.TestStreamPayload_Event
	// Endpoint of a TestStreamService that streams the events, or nil.
	Endpoint *pipepb.ApiServiceDescriptor
}

// SideSpec is what a SideInput stage materialises.
type SideSpec struct {
	// Input is the layout of the elements. For a multimap it is a KV.
	Input *coders.Windowed
	// Multimap is true where the access pattern is by key.
	Multimap bool
	// Group is set where the contents of a window may change while they are read: where the
	// input is unbounded, its trigger may fire more than once or the job takes checkpoints. The elements are grouped
	// under one empty key, and what a window has is its latest pane. Input is KV<bytes, E>.
	// Where it is nil there is one version, complete when all of the input has come.
	Group *GroupSpec
	// Panes is the layout of the panes, KV<bytes, iterable<E>>, if Group is set.
	Panes *coders.Windowed
}
