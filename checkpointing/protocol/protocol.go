// Package protocol is what checkpoints are and when one counts: manifests and their bytes,
// generations and epochs, what to recover from, what to remove, what an update keeps, and the
// checkpoint coordinator as a state machine. It is pure: it has no I/O, clock or goroutine.
// Package checkpointing reads and writes, and hands what it saw to the functions of this one.
//
// # Objects
//
// A job has a folder in a store, of objects that are created once and never written again:
//
//	generation-N         a run of the job begins: claims the number, fences all runs before
//	generation-N.base    what that run begins with, once it has found out
//	epoch-E              an epoch begins: claims the number, for the generation that it names
//	manifest-E           all of a checkpoint is there
//	files/E-N-T-I        file I of task T, uploaded in epoch E by generation N
//
// Whoever begins a run creates generation-N first, and looks for manifests after that. Whoever
// has written a manifest looks whether it was replaced (see Replaced) before it acts on the checkpoint.
// So either the new run sees the manifest, or the old one sees that it has been replaced; a
// manifest of an old run that is newer than the base of a later one does not count.
package protocol

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/lintelrun/lintel/internal/fault"
)

// FileID says which file of a job's folder one is. No two have the same, ever.
type FileID struct {
	// Epoch and Generation in which it was uploaded. Checkpoints of later epochs may name it too.
	Epoch, Generation uint64
	// Task is a number of the task that wrote it, unique in the generation.
	Task uint64
	// Number of the file among those of the task in the epoch.
	Number uint64
}

const filesFolder = "files/"

// Name returns the name of the file's object.
func (id FileID) Name() string {
	return fmt.Sprintf(filesFolder+"%012d-%d-%d-%d", id.Epoch, id.Generation, id.Task, id.Number)
}

// ClaimName returns the name of the object that claims an epoch. Names sort as their numbers do,
// up to a million million of them, which only people care about.
func ClaimName(epoch uint64) string { return fmt.Sprintf("epoch-%012d", epoch) }

// ManifestName returns the name of the manifest of an epoch.
func ManifestName(epoch uint64) string { return fmt.Sprintf("manifest-%012d", epoch) }

// GenerationName returns the name of the object that claims a generation.
func GenerationName(generation uint64) string { return fmt.Sprintf("generation-%08d", generation) }

// BaseName returns the name of the object that says what a generation begins with.
func BaseName(generation uint64) string { return GenerationName(generation) + ".base" }

// objectKind says what an object of a job's folder is.
type objectKind int

const (
	foreign objectKind = iota // not ours: left alone
	generationClaim
	generationBase
	epochClaim
	manifest
	file
)

// objectName is a name taken apart.
type objectName struct {
	kind   objectKind
	number uint64 // generation or epoch
	file   FileID
}

// splitName takes the name of an object apart.
func splitName(name string) objectName {
	if rest, ok := strings.CutPrefix(name, filesFolder); ok {
		var n [4]uint64
		parts := strings.Split(rest, "-")
		if len(parts) != len(n) {
			return objectName{}
		}
		for i, p := range parts {
			var err error
			if n[i], err = strconv.ParseUint(p, 10, 64); err != nil {
				return objectName{}
			}
		}
		id := FileID{n[0], n[1], n[2], n[3]}
		if id.Name() != name {
			return objectName{}
		}
		return objectName{kind: file, number: id.Epoch, file: id}
	}
	what, digits, _ := strings.Cut(name, "-")
	digits, isBase := strings.CutSuffix(digits, ".base")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return objectName{}
	}
	o := objectName{number: n}
	var again string
	switch {
	case what == "generation" && isBase:
		o.kind, again = generationBase, BaseName(n)
	case what == "generation":
		o.kind, again = generationClaim, GenerationName(n)
	case what == "epoch" && !isBase:
		o.kind, again = epochClaim, ClaimName(n)
	case what == "manifest" && !isBase:
		o.kind, again = manifest, ManifestName(n)
	}
	if again != name {
		return objectName{}
	}
	return o
}

// Claim is what an object says that claims an epoch or a generation.
type Claim struct {
	// Generation that claims.
	Generation uint64
	// Writer is a random number of the process: who tries again knows its own claim by it.
	Writer uint64
}

// Replaced tells whether a generation has been, by what was read just now of the next one's claim.
// Claims of generations are never removed.
func Replaced(generation uint64, next Read) error {
	if next.Absent {
		return nil
	}
	return fault.New(fault.Fenced, "checkpointing: generation %d has been replaced by %d", generation, generation+1)
}

// Base is what a generation begins with.
type Base struct {
	Generation uint64
	// Epoch of the checkpoint; 0 for none.
	Epoch uint64
	// Savepoint is the URI of the one that the generation begins with instead, "" for none. The
	// generation needs it until its first checkpoint.
	Savepoint string
}

// The records' formats begin like that of manifests.
const (
	claimMagic = "LNTLCLM"
	baseMagic  = "LNTLBAS"
)

// Encode returns the bytes of the claim.
func (c Claim) Encode() []byte {
	e := newEncoder(claimMagic)
	e.uint(c.Generation)
	e.uint(c.Writer)
	return e.sealed()
}

// DecodeClaim reads a claim, or returns a fault.Corruption.
func DecodeClaim(data []byte) (Claim, error) {
	d, err := unseal(data, claimMagic)
	if err != nil {
		return Claim{}, err
	}
	c := Claim{Generation: d.uint(), Writer: d.uint()}
	return c, d.end()
}

// Encode returns the bytes of the base.
func (b Base) Encode() []byte {
	e := newEncoder(baseMagic)
	e.uint(b.Generation)
	e.uint(b.Epoch)
	e.string(b.Savepoint)
	return e.sealed()
}

// DecodeBase reads a base, or returns a fault.Corruption.
func DecodeBase(data []byte) (Base, error) {
	d, err := unseal(data, baseMagic)
	if err != nil {
		return Base{}, err
	}
	b := Base{Generation: d.uint(), Epoch: d.uint(), Savepoint: d.string()}
	return b, d.end()
}

func corrupt(format string, args ...any) error {
	return fault.New(fault.Corruption, "checkpointing: "+format, args...)
}

// NewestGeneration returns the highest that a listing has claims of, 0 if it has none.
func NewestGeneration(listed []Object) (newest uint64) {
	for _, o := range listed {
		if n := splitName(o.Name); n.kind == generationClaim || n.kind == generationBase {
			newest = max(newest, n.number)
		}
	}
	return newest
}
