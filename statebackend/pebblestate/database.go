package pebblestate

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"strings"

	"github.com/lintelrun/lintel/internal/fault"
)

// This file is a format: docs/format/snapshot.md. What version 1 means it means for good.

const (
	databaseMagic   = "LNTLPDB"
	databaseVersion = 1
)

// record is a file of a database that is no table.
type record struct {
	name    string
	content []byte
}

// encodeRecords makes one file of several.
func encodeRecords(records []record) []byte {
	out := append([]byte(databaseMagic), databaseVersion)
	out = binary.AppendUvarint(out, uint64(len(records)))
	for _, r := range records {
		out = binary.AppendUvarint(out, uint64(len(r.name)))
		out = append(out, r.name...)
		out = binary.AppendUvarint(out, uint64(len(r.content)))
		out = append(out, r.content...)
	}
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
}

// decodeRecords returns what encodeRecords has put together, sharing memory with data. An error is of class
// fault.Corruption.
func decodeRecords(data []byte) ([]record, error) {
	corrupt := func(format string, args ...any) error {
		return fault.New(fault.Corruption, "pebblestate: the files of a database are not usable: "+format, args...)
	}
	head := len(databaseMagic) + 1
	if len(data) < head+4 || !bytes.HasPrefix(data, []byte(databaseMagic)) {
		return nil, corrupt("they don't begin with %s", databaseMagic)
	}
	if v := data[head-1]; v != databaseVersion {
		return nil, corrupt("they are of version %d; this build reads version %d", v, databaseVersion)
	}
	body := data[:len(data)-4]
	if got, want := crc32.Checksum(body, castagnoli), binary.LittleEndian.Uint32(data[len(body):]); got != want {
		return nil, corrupt("checksum %08x, not %08x", got, want)
	}
	rest, bad := body[head:], false
	number := func() uint64 {
		v, n := binary.Uvarint(rest)
		if n <= 0 || v > uint64(len(rest)) {
			bad, rest = true, nil
			return 0
		}
		rest = rest[n:]
		return v
	}
	take := func() []byte {
		n := number()
		if n > uint64(len(rest)) {
			bad, rest = true, nil
			return nil
		}
		out := rest[:n:n]
		rest = rest[n:]
		return out
	}
	var out []record
	for n := number(); n > 0 && !bad; n-- {
		r := record{name: string(take()), content: take()}
		if !isFileName(r.name) {
			return nil, corrupt("%q is no name of a file", r.name)
		}
		out = append(out, r)
	}
	if bad || len(rest) > 0 {
		return nil, corrupt("they don't decode")
	}
	return out, nil
}

// isFileName holds for names of files as databases have them, which are safe in any folder.
func isFileName(name string) bool {
	const letters, others = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", "-_."
	return name != "" && len(name) <= 100 && strings.Trim(name, letters+others) == "" && strings.IndexByte(others, name[0]) < 0
}
