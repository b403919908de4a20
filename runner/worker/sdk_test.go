package worker

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/portable"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// doFn processes one element in its nested encoding.
type doFn func(c *call) error

// call is one element's way through one transform.
type call struct {
	bundle    *fnapitest.Bundle
	transform string
	element   []byte
	emit      func(element []byte)
	// timer is what fires; nil if an element is processed.
	timer *firing
	run   *running
}

// program is what a user wrote, and the SDK under it: a pipeline of bytes, KVs
// of bytes and groups of them, and a doFn for each ParDo.
type program struct {
	t    testing.TB
	plan *plan.Plan
	fns  map[string]doFn
	// chunk is the most bytes in one message of output; 0 for all in one.
	chunk int
	// before and after each bundle's input, if not nil.
	before, after func(*fnapitest.Bundle, *plan.Stage) error

	mu        sync.Mutex
	collected map[string][]string // by transform
}

// compile plans a pipeline in which no two transforms share a stage.
func compile(t testing.TB, p *portabletest.Pipeline, fns map[string]doFn) *program {
	t.Helper()
	return compileAs(t, p, portable.Options{SeparateStages: true}, fns)
}

func compileAs(t testing.TB, p *portabletest.Pipeline, o portable.Options, fns map[string]doFn) *program {
	t.Helper()
	// More than one process of them is of use, so give them all we are asked for.
	for _, env := range p.Proto.Components.Environments {
		env.Urn = urns.EnvironmentProcess
		env.Capabilities = append(env.Capabilities, urns.CapabilityProgressReporting)
	}
	compiled, err := portable.Compile(context.Background(), p.Proto, o)
	if err != nil {
		t.Fatal(err)
	}
	return &program{t: t, plan: compiled, fns: fns, collected: map[string][]string{}}
}

// script is what harnesses of this program do.
func (p *program) script(*process) fnapitest.Script { return fnapitest.Script{Process: p.process} }

// stage returns the stage that a bundle belongs to.
func (p *program) stage(b *fnapitest.Bundle) *plan.Stage {
	id := b.Descriptor.GetId()
	for _, s := range p.plan.Stages {
		if strings.HasSuffix(id, "/"+s.ID) {
			return s
		}
	}
	panic("no stage " + id)
}

func (p *program) process(b *fnapitest.Bundle) error {
	s := p.stage(b)
	if p.before != nil {
		if err := p.before(b, s); err != nil {
			return err
		}
	}
	run := &running{program: p, bundle: b, out: map[string][]byte{}}
	source := b.Descriptor.GetTransforms()[s.Exec.Source].GetOutputs()
	for in, err := range b.Input() {
		if err != nil {
			return err
		}
		if in.Timer != "" {
			if err := run.fire(in); err != nil {
				return err
			}
			continue
		}
		var el coders.Element
		for rest := in.Data; len(rest) > 0; rest = rest[el.Size:] {
			if err := s.In[0].Coder.Next(rest, &el); err != nil {
				return err
			}
			header := el.Size - len(el.Key) - len(el.Value)
			run.header, run.key, run.window = rest[:header], el.Key, el.Windows
			for _, pcollection := range source {
				if err := run.consume(pcollection, rest[header:el.Size]); err != nil {
					return err
				}
			}
		}
	}
	for _, sink := range s.Exec.Sinks {
		if err := p.send(b, sink, run.out[sink]); err != nil {
			return err
		}
	}
	if err := run.sendTimers(); err != nil {
		return err
	}
	if p.after != nil {
		if err := p.after(b, s); err != nil {
			return err
		}
	}
	p.collect(run.collected)
	return nil
}

func (p *program) send(b *fnapitest.Bundle, sink string, data []byte) error {
	size := p.chunk
	if size == 0 {
		size = 1 << 20
	}
	for chunk := range slices.Chunk(data, size) {
		if err := b.Emit(sink, chunk); err != nil {
			return err
		}
	}
	return nil
}

// collector is a doFn that keeps what comes, once its bundle succeeds.
func collector(*call) error { return nil }

func (p *program) collect(found map[string][]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for transform, elements := range found {
		p.collected[transform] = append(p.collected[transform], elements...)
	}
}

// got returns what a transform has processed in bundles that succeeded, sorted.
func (p *program) got(transform string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(slices.Values(p.collected[transform]))
}

// running is a bundle in execution.
type running struct {
	*program
	bundle *fnapitest.Bundle
	header []byte // timestamp, windows and pane of the current element
	// key and window of the current element or timer, of stages with keys.
	key, window []byte
	timers      map[[2]string][]byte // that were set or cleared, by transform and family
	out         map[string][]byte
	collected   map[string][]string
}

// consume hands an element to all transforms that have a PCollection as main input.
func (r *running) consume(pcollection string, element []byte) error {
	for id, t := range r.bundle.Descriptor.GetTransforms() {
		for local, in := range t.GetInputs() {
			if in != pcollection || sideInput(t, local) {
				continue
			}
			if len(t.GetOutputs()) == 0 && r.fns[id] == nil { // a sink
				r.out[id] = append(append(r.out[id], r.header...), element...)
				continue
			}
			if err := r.call(id, t, element); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *running) call(id string, t *pipepb.PTransform, element []byte) error {
	return r.invoke(&call{transform: id, element: element}, t, string(element))
}

func (r *running) invoke(c *call, t *pipepb.PTransform, what string) (err error) {
	id := c.transform
	fn := r.fns[id]
	if fn == nil {
		return fmt.Errorf("no doFn %s", id)
	}
	if r.collected == nil {
		r.collected = map[string][]string{}
	}
	r.collected[id] = append(r.collected[id], what)
	c.bundle, c.run = r.bundle, r
	c.emit = func(out []byte) {
		for _, pcollection := range t.GetOutputs() {
			if err == nil {
				err = r.consume(pcollection, out)
			}
		}
	}
	if failed := fn(c); failed != nil {
		return failed
	}
	return err
}

func sideInput(t *pipepb.PTransform, local string) bool {
	var parDo pipepb.ParDoPayload
	if t.GetSpec().GetUrn() != urns.TransformParDo || proto.Unmarshal(t.GetSpec().GetPayload(), &parDo) != nil {
		return false
	}
	return parDo.GetSideInputs()[local] != nil
}

// side reads an iterable side input of the global window.
func (c *call) side(local string) ([]string, error) {
	data, err := c.bundle.StateGet(&fnpb.StateKey{Type: &fnpb.StateKey_IterableSideInput_{
		IterableSideInput: &fnpb.StateKey_IterableSideInput{TransformId: c.transform, SideInputId: local}}})
	if err != nil {
		return nil, err
	}
	var all []string
	for len(data) > 0 {
		n, k := binary.Uvarint(data)
		all = append(all, string(data[k:k+int(n)]))
		data = data[k+int(n):]
	}
	return all, nil
}

// bytesOf, kvOf and groupOf are the encodings of the coders in portabletest.
func bytesOf(s string) []byte { return coders.AppendBytes(nil, []byte(s)) }

func kvOf(key, value string) []byte { return append(bytesOf(key), bytesOf(value)...) }

// text reads bytes.
func text(element []byte) string {
	n, k := binary.Uvarint(element)
	return string(element[k : k+int(n)])
}

// group reads a KV of a key and an iterable of known length.
func group(element []byte) (key string, values []string) {
	key = text(element)
	rest := element[len(bytesOf(key)):]
	n := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	for range n {
		v := text(rest)
		values = append(values, v)
		rest = rest[len(bytesOf(v)):]
	}
	return key, values
}
