package pebblestate

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/lintelrun/lintel/statebackend"
)

var imageBytes = flag.Int64("image-bytes", 1<<30, "size of the state in BenchmarkImage")

const (
	benchmarkValue  = 200
	benchmarkRecord = benchmarkValue + 40 // with its key, about
	benchmarkCommit = 1000                // changes
)

// BenchmarkImage takes an image after so many changes of random records, half of them made while the one before is
// written: see pause-ms, how long the owner waits for it, what is uploaded for what has changed and of the state, and
// memtables-MB, the most that memory tables took. An iteration of "whole" makes a table of each image, as if there were no chains.
func BenchmarkImage(b *testing.B) {
	s, records := benchmarkState(b)
	percent := records / 100 / benchmarkCommit * benchmarkCommit
	for _, changes := range []int{2000, 20_000, percent, 200_000} {
		for _, whole := range []bool{false, true} {
			b.Run(fmt.Sprintf("changes=%d/whole=%v", changes, whole), func(b *testing.B) { benchmarkImages(b, s, records, changes, whole) })
		}
	}
	closeAll(b, s, s.backend)
}

// benchmarkState makes a store of imageBytes, and returns how many records it has.
func benchmarkState(b *testing.B) (*Store, int) {
	backend := open(b, Config{Dir: b.TempDir(), CacheBytes: 256 << 20, Images: true}, vfs.Default)
	s := restoreStore(b, backend, "benchmark")
	records := int(*imageBytes / benchmarkRecord)
	for i := 0; i < records; i += benchmarkCommit {
		changeRecords(b, s, benchmarkCommit, func(j int) int { return i + j })
	}
	if err := s.db.Flush(); err != nil {
		b.Fatal(err)
	}
	return s, records
}

// changeRecords makes one commit.
func changeRecords(b *testing.B, s *Store, n int, which func(j int) int) {
	var batch statebackend.Batch
	value := make([]byte, benchmarkValue)
	for j := range n {
		hash := uint64(which(j)) * 0x9e3779b97f4a7c15
		c := statebackend.Cell{Key: binary.LittleEndian.AppendUint64([]byte{8}, hash), State: "s"}
		c.Group, c.Transform = uint16(hash>>54), "Transform"
		for k := 0; k < len(value); k += 8 {
			binary.LittleEndian.PutUint64(value[k:], rand.Uint64())
		}
		batch.Set(c.AppendKey(nil), value)
	}
	if err := s.Commit(&batch); err != nil {
		b.Fatal(err)
	}
}

func benchmarkImages(b *testing.B, s *Store, records, changes int, whole bool) {
	d := discarded{held: map[string]bool{}}
	write := func(i statebackend.Image) {
		if err := i.Write(b.Context(), d.put); err != nil {
			b.Error(err)
		}
		if err := i.Close(); err != nil {
			b.Error(err)
		}
	}
	image := func() statebackend.Image {
		take := s.Image
		if whole {
			take = s.image
		}
		i, err := take(d.has)
		if err != nil {
			b.Fatal(err)
		}
		return i
	}
	write(image()) // the first has all
	d.bytes = 0
	var pauses, commits []time.Duration
	var changed, memTables int64
	var wg sync.WaitGroup
	change := func() {
		for range changes / 2 / benchmarkCommit {
			begun := time.Now()
			changeRecords(b, s, benchmarkCommit, func(int) int { return rand.IntN(records) })
			commits = append(commits, time.Since(begun))
			changed += benchmarkCommit * benchmarkRecord
			memTables = max(memTables, s.Stats().MemTableBytes)
		}
	}
	for b.Loop() {
		change()
		begun := time.Now()
		i := image()
		pauses = append(pauses, time.Since(begun))
		wg.Go(func() { write(i) })
		change()
		wg.Wait()
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	slices.Sort(pauses)
	slices.Sort(commits)
	b.ReportMetric(ms(pauses[len(pauses)/2]), "pause-ms")
	b.ReportMetric(ms(pauses[len(pauses)-1]), "longest-pause-ms")
	b.ReportMetric(ms(commits[len(commits)-1]), "longest-commit-ms")
	b.ReportMetric(float64(d.bytes)/float64(changed), "uploaded/changed")
	b.ReportMetric(float64(d.bytes)/float64(b.N)/float64(records*benchmarkRecord)*100, "uploaded-%")
	b.ReportMetric(float64(memTables)/(1<<20), "memtables-MB")
	b.ReportMetric(float64(s.Stats().DiskBytes)/(1<<20), "state-MB")
}

// discarded is where the files of the benchmark's images go.
type discarded struct {
	mu    sync.Mutex
	held  map[string]bool
	bytes int64
}

func (d *discarded) has(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held[name]
}

func (d *discarded) put(f statebackend.File, content io.ReadSeeker) error {
	if content == nil {
		return nil
	}
	n, err := io.Copy(io.Discard, content)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held[f.Name] = true
	d.bytes += n
	return err
}
