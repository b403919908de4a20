package protocol

import "encoding/binary"

const manifestMagic = "LNTLMAN"

// Encode returns the bytes of the manifest. There is one way to write each.
func (m *Manifest) Encode() []byte {
	e := newEncoder(manifestMagic)
	e.uint(m.Epoch)
	e.uint(m.Generation)
	e.bool(m.Savepoint)
	e.time(m.Taken)
	e.int(m.KeyGroups)
	e.string(m.Job.ID)
	e.string(m.Job.Name)
	e.time(m.Job.Submitted)
	e.span(m.Job.Pipeline)
	e.span(m.Job.Options)
	e.out = append(e.out, m.Plan[:]...)
	e.pipeline(&m.Pipeline)
	e.list(len(m.Files))
	for _, f := range m.Files {
		e.file(f)
	}
	e.list(len(m.Tasks))
	for i := range m.Tasks {
		e.task(&m.Tasks[i])
	}
	e.list(len(m.Metrics))
	for _, metric := range m.Metrics {
		e.string(metric)
	}
	return e.sealed()
}

func (e *encoder) file(f File) {
	e.uint(f.Epoch)
	e.uint(f.Generation)
	e.uint(f.Task)
	e.uint(f.Number)
	e.size(f.Size)
	e.out = binary.LittleEndian.AppendUint32(e.out, f.CRC32C)
}

func (e *encoder) span(s Span) {
	e.int(s.File)
	e.size(s.Offset)
	e.size(s.Length)
}

func (e *encoder) task(t *Task) {
	e.string(t.Stage)
	e.int(t.Index)
	e.int(t.Of)
	e.int(t.FirstGroup)
	e.int(t.EndGroup)
	e.bool(t.Ended)
	e.time(t.Input)
	e.time(t.Output)
	e.time(t.Hold)
	e.list(len(t.Channels))
	for _, c := range t.Channels {
		e.string(c.Edge)
		e.int(c.From)
		e.time(c.Watermark)
	}
	e.list(len(t.Parts))
	for _, p := range t.Parts {
		e.out = append(e.out, byte(p.Kind))
		e.string(p.Name)
		e.int(p.Index)
		e.int(p.FirstGroup)
		e.int(p.EndGroup)
		e.size(p.Elements)
		e.span(p.Span)
	}
}

func (e *encoder) pipeline(p *Pipeline) {
	e.list(len(p.Transforms))
	for i := range p.Transforms {
		t := &p.Transforms[i]
		e.string(t.Name)
		e.string(t.URN)
		e.string(t.Coder)
		e.string(t.Windowing)
		e.bool(t.Keeps)
		e.list(len(t.States))
		for _, s := range t.States {
			e.string(s.ID)
			e.string(s.Kind)
			e.string(s.Coder)
		}
		e.list(len(t.Timers))
		for _, f := range t.Timers {
			e.string(f.Family)
			e.string(f.Domain)
		}
	}
}

// DecodeManifest reads a manifest, or returns a fault.Corruption that says what is wrong. It
// keeps nothing of data.
func DecodeManifest(data []byte) (*Manifest, error) {
	d, err := unseal(data, manifestMagic)
	if err != nil {
		return nil, err
	}
	m := &Manifest{Epoch: d.uint(), Generation: d.uint(), Savepoint: d.bool(), Taken: d.time(), KeyGroups: d.int()}
	m.Job = Job{ID: d.string(), Name: d.string(), Submitted: d.time(), Pipeline: d.span(), Options: d.span()}
	copy(m.Plan[:], d.take(len(m.Plan)))
	m.Pipeline = d.pipeline()
	m.Files = decodeList(d, d.file)
	m.Tasks = decodeList(d, d.task)
	m.Metrics = decodeList(d, d.string)
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

func (d *decoder) file() File {
	return File{FileID: FileID{d.uint(), d.uint(), d.uint(), d.uint()}, Size: d.size(), CRC32C: d.uint32()}
}

func (d *decoder) span() Span { return Span{d.int(), d.size(), d.size()} }

func (d *decoder) task() Task {
	return Task{
		Stage: d.string(), Index: d.int(), Of: d.int(), FirstGroup: d.int(), EndGroup: d.int(),
		Ended: d.bool(), Input: d.time(), Output: d.time(), Hold: d.time(),
		Channels: decodeList(d, func() Channel { return Channel{d.string(), d.int(), d.time()} }),
		Parts:    decodeList(d, d.part),
	}
}

func (d *decoder) part() Part {
	return Part{
		Kind: PartKind(d.byte()), Name: d.string(), Index: d.int(),
		FirstGroup: d.int(), EndGroup: d.int(), Elements: d.size(), Span: d.span(),
	}
}

func (d *decoder) pipeline() Pipeline {
	return Pipeline{decodeList(d, func() Transform {
		return Transform{
			Name: d.string(), URN: d.string(), Coder: d.string(), Windowing: d.string(), Keeps: d.bool(),
			States: decodeList(d, func() StateSpec { return StateSpec{d.string(), d.string(), d.string()} }),
			Timers: decodeList(d, func() TimerFamily { return TimerFamily{d.string(), d.string()} }),
		}
	})}
}
