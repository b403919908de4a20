package spillmap

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"

	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/internal/spillfile"
)

// longKey is the length, in bytes, of keys that a map does not hold in memory. They may be as
// long as elements may, and a merge of runs compares a key of each. Shorter ones are repeated
// where their values go on in another block.
const longKey = blockSize / 4

// longKeys is a file of keys, each once. In tables and runs a name stands for a key, which says
// where it is, so that equal names are equal keys.
//
//	name: offset, uint64 | length, uint64, little endian
type longKeys struct {
	dir   string
	file  *os.File // nil until there is one
	size  int64
	names map[uint64][][nameSize]byte // by hash
	part  []byte                      // of a key, when it is compared
}

const nameSize = 16

// name returns the name of a key, which is added unless it has one.
func (l *longKeys) name(hash uint64, key []byte) ([]byte, error) {
	for _, name := range l.names[hash] {
		if same, err := l.equal(name[:], key); err != nil {
			return nil, err
		} else if same {
			return name[:], nil
		}
	}
	if l.file == nil {
		file, err := spillfile.Create(l.dir)
		if err != nil {
			return nil, err
		}
		l.file, l.names, l.part = file, map[uint64][][nameSize]byte{}, make([]byte, longKey)
	}
	if _, err := l.file.WriteAt(key, l.size); err != nil {
		return nil, spillfile.Error(l.dir, "writing", err)
	}
	var name [nameSize]byte
	binary.LittleEndian.PutUint64(name[:], uint64(l.size))
	binary.LittleEndian.PutUint64(name[8:], uint64(len(key)))
	l.names[hash] = append(l.names[hash], name)
	l.size += int64(len(key))
	return name[:], nil
}

// equal compares a named key with another, part by part.
func (l *longKeys) equal(name, key []byte) (bool, error) {
	at, size, err := l.place(name)
	if err != nil || size != int64(len(key)) {
		return false, err
	}
	for len(key) > 0 {
		part := l.part[:min(len(l.part), len(key))]
		if err := l.read(part, at); err != nil {
			return false, err
		}
		if !bytes.Equal(part, key[:len(part)]) {
			return false, nil
		}
		key, at = key[len(part):], at+int64(len(part))
	}
	return true, nil
}

// appendTo appends at most n bytes of the key that has a name.
func (l *longKeys) appendTo(dst, name []byte, n int64) ([]byte, error) {
	at, size, err := l.place(name)
	if err != nil {
		return dst, err
	}
	size = min(size, n)
	// Some values are likely to follow, and should not have it copied again.
	start := len(dst)
	dst = slices.Grow(dst, int(size+size/32))[:start+int(size)]
	return dst, l.read(dst[start:], at)
}

func (l *longKeys) place(name []byte) (at, size int64, err error) {
	if len(name) != nameSize {
		return 0, 0, fault.New(fault.Corruption, "spilling: %x does not say where a long key is", name)
	}
	at, size = int64(binary.LittleEndian.Uint64(name)), int64(binary.LittleEndian.Uint64(name[8:]))
	if at < 0 || size < 0 || at > l.size || size > l.size-at {
		return 0, 0, fault.New(fault.Corruption, "spilling: a key of %d bytes at %d in a file of %d", size, at, l.size)
	}
	return at, size, nil
}

func (l *longKeys) read(b []byte, at int64) error {
	_, err := l.file.ReadAt(b, at)
	return spillfile.Error(l.dir, "reading", err)
}

func (l *longKeys) close() error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	*l = longKeys{dir: l.dir}
	return err
}
