package pebblestate

import (
	"log/slog"

	"github.com/lintelrun/lintel/internal/fault"
)

// Defaults of a Config.
const (
	DefaultCacheBytes    = 64 << 20
	DefaultMemTableBytes = 64 << 20
	DefaultOpenFiles     = 1024
	DefaultCompactions   = 2
)

// Config configures a Backend. Dir is required, the rest may be zero.
type Config struct {
	// Dir is the folder for the stores, each a folder in it; made if it is not there. It
	// belongs to one Backend at a time.
	Dir string
	// Keep opens a store with what is there and leaves it there when it is closed. Without,
	// stores begin empty and are removed when closed, what a crash left as well: a task that
	// starts again starts from a checkpoint, never from files that may be older or newer.
	Keep bool
	// CacheBytes is the memory for blocks of all stores together; memory tables count in it.
	// 0 is DefaultCacheBytes.
	CacheBytes int64
	// MemTableBytes is about how much of all stores is kept in memory before it is written to
	// files. While it is written up to twice as much may be; stores of which images are taken keep up to
	// half as much again, of what has changed. A store begins with 256 KiB and grows to
	// its share: less than those have that were opened before, and 32 MiB at most. The larger
	// the share, the less often is all that the store has written anew. 0 is DefaultMemTableBytes.
	MemTableBytes int64
	// Images is for stores that are restored, since images are taken of them: an image begins a new memory table, and
	// with it a third may wait to be written before the store's owner must. Each is smaller by a third for it. It takes memory beside
	// the tables nevertheless, about 20 MB, as an owner that needn't wait has more merged at once.
	Images bool
	// Compactions is how many a store may have at once, beside a memory table that is written. Each has what it
	// reads and writes several times in memory, which counts where values are large. 0 is DefaultCompactions.
	Compactions int
	// OpenFiles is how many files all stores together keep open. 0 is DefaultOpenFiles.
	OpenFiles int
	// Logger gets what the databases report. Nil is none.
	Logger *slog.Logger
}

// Validate says what is wrong with a configuration, as a fault.Invalid.
func (c Config) Validate() error {
	switch {
	case c.Dir == "":
		return fault.New(fault.Invalid, "pebblestate: no Dir to keep state in")
	case c.CacheBytes < 0:
		return fault.New(fault.Invalid, "pebblestate: CacheBytes is %d, must not be negative", c.CacheBytes)
	case c.MemTableBytes < 0:
		return fault.New(fault.Invalid, "pebblestate: MemTableBytes is %d, must not be negative", c.MemTableBytes)
	case c.Compactions < 0:
		return fault.New(fault.Invalid, "pebblestate: Compactions is %d, must not be negative", c.Compactions)
	case c.OpenFiles < 0 || c.OpenFiles > 1<<20:
		return fault.New(fault.Invalid, "pebblestate: OpenFiles is %d, must be between 0 and 1048576", c.OpenFiles)
	}
	return nil
}

// leastMemTable and mostMemTable are the limits of a store's share.
const (
	leastMemTable = 1 << 20
	mostMemTable  = 32 << 20
)

// memTables says how many memory tables a store may have, one that is filled, the others being written; and of how many bytes.
type memTables struct {
	most  int
	bytes int64
}

// memTables is the share of a store that is opened when others are open.
func (c Config) memTables(others int, images bool) memTables {
	share := min(max(c.MemTableBytes/int64(others+1), min(leastMemTable, c.MemTableBytes)), mostMemTable)
	if images && c.Images {
		return memTables{3, share * 2 / 3}
	}
	return memTables{2, share}
}

func (c Config) withDefaults() Config {
	if c.CacheBytes == 0 {
		c.CacheBytes = DefaultCacheBytes
	}
	if c.MemTableBytes == 0 {
		c.MemTableBytes = DefaultMemTableBytes
	}
	if c.OpenFiles == 0 {
		c.OpenFiles = DefaultOpenFiles
	}
	if c.Compactions == 0 {
		c.Compactions = DefaultCompactions
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}
