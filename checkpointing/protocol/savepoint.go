package protocol

// A savepoint is a folder of its own, in any store: its manifest, and all of the files that the
// manifest names. Nothing in it is another's, and it has nothing of others.

// SavepointManifest is the name of a savepoint's manifest.
const SavepointManifest = "manifest"

// Copy is a file to copy, from a job's folder to a savepoint's.
type Copy struct{ From, To File }

// Detach makes a savepoint's manifest of a checkpoint's, and says which files to copy before it is
// written. Files that nothing in the manifest refers to stay behind.
func Detach(m *Manifest) (*Manifest, []Copy) {
	out := *m
	out.Savepoint = true
	out.Files = nil
	var copies []Copy
	place := make([]int, len(m.Files)) // plus one
	move := func(s Span) Span {
		if s == (Span{}) {
			return s
		}
		if place[s.File] == 0 {
			to := m.Files[s.File]
			to.FileID = FileID{Epoch: m.Epoch, Generation: m.Generation, Number: uint64(len(out.Files))}
			copies = append(copies, Copy{m.Files[s.File], to})
			out.Files = append(out.Files, to)
			place[s.File] = len(out.Files)
		}
		s.File = place[s.File] - 1
		return s
	}
	out.Job.Pipeline, out.Job.Options = move(m.Job.Pipeline), move(m.Job.Options)
	out.Tasks = make([]Task, len(m.Tasks))
	for i, t := range m.Tasks {
		parts := make([]Part, len(t.Parts))
		for j, p := range t.Parts {
			p.Span = move(p.Span)
			parts[j] = p
		}
		t.Parts = parts
		if len(parts) == 0 {
			t.Parts = nil
		}
		out.Tasks[i] = t
	}
	return &out, copies
}

// SavepointObjects returns those of the objects in a savepoint's folder that are the savepoint's,
// in the order in which to delete them. Others are left alone; in a job's folder all are, since the files
// there are those of its checkpoints.
func SavepointObjects(listed []Object) []string {
	var names []string
	for _, o := range listed {
		switch kind := splitName(o.Name).kind; {
		case o.Name == SavepointManifest:
			names = append([]string{o.Name}, names...)
		case kind == file:
			names = append(names, o.Name)
		case kind != foreign:
			return nil
		}
	}
	return names
}
