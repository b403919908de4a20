package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
)

// blockBytes is the size of the pieces that a file is split into at the start.
const blockBytes = 16 << 20

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

// readLines is a splittable DoFn from file names to lines. Its restriction is a
// range of bytes, and a line belongs to the range in which its first byte lies:
// so the runner may cut a file anywhere, before or while it is read.
type readLines struct{}

// CreateInitialRestriction covers the whole file.
func (*readLines) CreateInitialRestriction(path string) (offsetrange.Restriction, error) {
	info, err := os.Stat(path)
	if err != nil {
		return offsetrange.Restriction{}, err
	}
	return offsetrange.Restriction{Start: 0, End: info.Size()}, nil
}

// SplitRestriction cuts large files into blocks.
func (*readLines) SplitRestriction(_ string, r offsetrange.Restriction) []offsetrange.Restriction {
	return r.SizedSplits(blockBytes)
}

// RestrictionSize is in bytes.
func (*readLines) RestrictionSize(_ string, r offsetrange.Restriction) float64 { return r.Size() }

// CreateTracker makes a tracker that is safe for splits while reading.
func (*readLines) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(r))
}

// ProcessElement emits the lines that begin within the restriction.
func (*readLines) ProcessElement(_ context.Context, rt *sdf.LockRTracker, path string, emit func(string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	pos := rt.GetRestriction().(offsetrange.Restriction).Start
	r, pos, err := seekLine(f, pos)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for rt.TryClaim(pos) {
		line, err := r.ReadString('\n')
		if line != "" {
			emit(strings.TrimRight(line, "\r\n"))
		}
		pos += int64(len(line))
		if err == io.EOF {
			// The rest of the restriction holds no line: claim it, so that it counts as done.
			rt.TryClaim(rt.GetRestriction().(offsetrange.Restriction).End)
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// seekLine returns a reader at the first line that begins at or after pos, and
// that line's offset.
func seekLine(f io.ReadSeeker, pos int64) (*bufio.Reader, int64, error) {
	if pos == 0 {
		return bufio.NewReaderSize(f, 64<<10), 0, nil
	}
	// One byte back: a line that begins exactly at pos follows a newline.
	if _, err := f.Seek(pos-1, io.SeekStart); err != nil {
		return nil, 0, err
	}
	r := bufio.NewReaderSize(f, 64<<10)
	skipped, err := r.ReadString('\n')
	if err != nil && err != io.EOF {
		return nil, 0, err
	}
	return r, pos - 1 + int64(len(skipped)), nil
}
