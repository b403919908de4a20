package spillmap

import (
	"encoding/binary"
	"hash/crc32"
)

// A run is a file of records ordered by hash, key and window. Integers are little
// endian; uvarint is LEB128. Runs are temporary: no process reads another's.
//
//	run:     magic "LNTLRUN" | version, byte | blocks | end
//	block:   stored length, uint32 > 0 | raw length, uint32 | checksum, uint32 | stored bytes
//	end:     0, uint32 | 0, uint32 | checksum, uint32
//	record:  value length<<1 | continued, uvarint
//	         unless continued: hash, uint64 | timestamp in ms, uint64 | count, uvarint |
//	             key length<<1 | long, uvarint | window length, uvarint | key | window
//	         value
//
// The stored bytes are the raw ones where the lengths are equal, else an S2 block.
// The checksum is CRC-32C of the number of the block in the run (uint64, so that
// blocks lost, repeated or out of order show), both lengths and the stored bytes.
// The first record of a block is not continued. A record lies in one block; its key is the name
// of one in longKeys where it says long. A block is full at blockSize raw bytes, which only its last
// record may exceed; blocks of more than maxPacked raw bytes are stored as they are, so
// that no reader allocates much more than a file's size, whatever the lengths say.
const (
	magic       = "LNTLRUN"
	version     = 1
	fileHeader  = len(magic) + 1
	blockHeader = 12
	blockSize   = 256 << 10
	maxPacked   = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// putBlockHeader fills the header of the numbered block whose stored bytes follow it.
func putBlockHeader(block []byte, number uint64, raw int) {
	binary.LittleEndian.PutUint32(block, uint32(len(block)-blockHeader))
	binary.LittleEndian.PutUint32(block[4:], uint32(raw))
	binary.LittleEndian.PutUint32(block[8:], blockChecksum(number, block[:8], block[blockHeader:]))
}

func blockChecksum(number uint64, lengths, stored []byte) uint32 {
	sum := crc32.Checksum(binary.LittleEndian.AppendUint64(nil, number), castagnoli)
	return crc32.Update(crc32.Update(sum, castagnoli, lengths), castagnoli, stored)
}

func appendRecord(dst []byte, r *record, continued bool) []byte {
	if continued {
		dst = binary.AppendUvarint(dst, uint64(len(r.value))<<1|1)
		return append(dst, r.value...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(r.value))<<1)
	dst = binary.LittleEndian.AppendUint64(dst, r.hash)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.timestamp))
	dst = binary.AppendUvarint(dst, r.count)
	long := uint64(0)
	if r.long {
		long = 1
	}
	dst = binary.AppendUvarint(dst, uint64(len(r.key))<<1|long)
	dst = binary.AppendUvarint(dst, uint64(len(r.window)))
	dst = append(dst, r.key...)
	dst = append(dst, r.window...)
	return append(dst, r.value...)
}

// parseRecord reads the record at the start of b into r, whose slices alias b,
// and returns its length, or false if b does not begin with a record. A continued
// record keeps r's hash, key and window.
func parseRecord(b []byte, r *record) (int, bool) {
	p := parser{b: b}
	valueLen := p.uvarint()
	r.continued = valueLen&1 != 0
	r.count = 0
	if !r.continued {
		r.hash = p.uint64()
		r.timestamp = int64(p.uint64())
		r.count = p.uvarint()
		keyLen, windowLen := p.uvarint(), p.uvarint()
		r.key, r.long = p.bytes(keyLen>>1), keyLen&1 != 0
		r.window = p.bytes(windowLen)
	}
	r.value = p.bytes(valueLen >> 1)
	return len(b) - len(p.b), !p.failed
}

type parser struct {
	b      []byte
	failed bool
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.failed = true
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) uint64() uint64 {
	b := p.bytes(8)
	if len(b) < 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

func (p *parser) bytes(n uint64) []byte {
	if n > uint64(len(p.b)) {
		p.failed = true
		return nil
	}
	b := p.b[:n:n]
	p.b = p.b[n:]
	return b
}
