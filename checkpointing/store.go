// Package checkpointing keeps checkpoints in stores of objects. What a checkpoint is, and which one
// counts, is decided by package protocol, which is pure; this package reads and writes what
// it asks for (Repository). A Store knows nothing of all that: it makes objects that are never
// changed. memstore, filestore and gcsstore are the implementations, and one is finished when it
// passes checkpointingtest.
package checkpointing

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/lintelrun/lintel/internal/fault"
)

// Store keeps objects by name. An object is there whole or not at all, is never changed, and is seen by
// all readers from the return of Create on. Names are those that CheckName takes. Safe for
// concurrent use. Errors that may not come again are of class fault.Retryable.
type Store interface {
	// Create makes an object of all that content has from its present place on, unless there is one of
	// that name: then it returns an ErrExists. After any other error the object may be
	// there, whole, or may still come to be before a later call on the same name returns.
	Create(ctx context.Context, name string, content io.ReadSeeker) error
	// Open reads an object; an ErrAbsent if there is none. The reader is to be closed.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// Stat returns the size of an object in bytes; an ErrAbsent if there is none.
	Stat(ctx context.Context, name string) (int64, error)
	// List calls visit for all objects whose names begin with prefix, in the order of their names.
	// An error of visit ends it, and is returned.
	List(ctx context.Context, prefix string, visit func(name string, size int64) error) error
	// Delete removes an object. It is no error if there is none.
	Delete(ctx context.Context, name string) error
}

// What Store methods return, wrapped.
var (
	ErrExists = errors.New("the object is there already")
	ErrAbsent = errors.New("there is no such object")
)

// maxName is how long names may be: with a folder before it, a name is a path.
const maxName = 512

// CheckName says what is wrong with the name of an object, as a fault.Invalid: it is one or more
// parts with slashes between them, each of letters, digits, "-", "_" and "." and beginning with none
// of these three.
func CheckName(name string) error {
	if len(name) > maxName {
		return fault.New(fault.Invalid, "checkpointing: a name of %d bytes; %d are the most", len(name), maxName)
	}
	for part := range strings.SplitSeq(name, "/") {
		for i, c := range []byte(part) {
			switch {
			case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9':
			case i > 0 && (c == '-' || c == '_' || c == '.'):
			default:
				return fault.New(fault.Invalid, "checkpointing: the name %q has a %q where none may be", name, c)
			}
		}
		if part == "" {
			return fault.New(fault.Invalid, "checkpointing: the name %q has an empty part", name)
		}
	}
	return nil
}

// Folder returns the objects of a store whose names begin with path and a slash, by what follows.
func Folder(s Store, path string) (Store, error) {
	if err := CheckName(path); err != nil {
		return nil, err
	}
	return &folder{s, path + "/"}, nil
}

type folder struct {
	store  Store
	prefix string
}

func (f *folder) Create(ctx context.Context, name string, content io.ReadSeeker) error {
	if err := CheckName(name); err != nil {
		return err // before the path hides what is wrong with it
	}
	return f.store.Create(ctx, f.prefix+name, content)
}

func (f *folder) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	return f.store.Open(ctx, f.prefix+name)
}

func (f *folder) Stat(ctx context.Context, name string) (int64, error) {
	return f.store.Stat(ctx, f.prefix+name)
}

func (f *folder) List(ctx context.Context, prefix string, visit func(string, int64) error) error {
	return f.store.List(ctx, f.prefix+prefix, func(name string, size int64) error {
		return visit(strings.TrimPrefix(name, f.prefix), size)
	})
}

func (f *folder) Delete(ctx context.Context, name string) error {
	return f.store.Delete(ctx, f.prefix+name)
}
