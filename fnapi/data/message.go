package data

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Message is an Elements message to be sent, in parts: headers of our own and, after them,
// the caller's payloads, which are not copied.
type Message = [][]byte

// Join makes one message of several, in their order: serialised protobuf messages
// in a row are their merge.
func Join(messages ...Message) Message { return slices.Concat(messages...) }

// NewMessage makes the message of one payload of an instruction. The payload is
// referred to.
func NewMessage(instruction string, to Target, payload []byte) Message {
	outer, number := elementsData, dataPayload
	size := sizeTarget(instruction, to) + protowire.SizeTag(dataPayload) + protowire.SizeBytes(len(payload))
	if to.Family != "" {
		outer, number = elementsTimers, timersPayload
	}
	h := make([]byte, 0, protowire.SizeTag(outer)+protowire.SizeBytes(size)-len(payload))
	h = protowire.AppendTag(h, outer, protowire.BytesType)
	h = protowire.AppendVarint(h, uint64(size))
	h = appendTarget(h, instruction, to)
	h = protowire.AppendTag(h, number, protowire.BytesType)
	h = protowire.AppendVarint(h, uint64(len(payload)))
	return Message{h, payload}
}

// NewTerminators makes the one message that ends an instruction's input: an
// empty terminator for every target. SDKs drop payload that comes with a
// terminator (Python) or count terminators per stream (Go), so they travel
// together, empty, after everything else.
func NewTerminators(instruction string, targets []Target) Message {
	var h []byte
	for _, to := range targets {
		outer, number := elementsData, dataLast
		if to.Family != "" {
			outer, number = elementsTimers, timersLast
		}
		h = protowire.AppendTag(h, outer, protowire.BytesType)
		h = protowire.AppendVarint(h, uint64(sizeTarget(instruction, to)+protowire.SizeTag(number)+1))
		h = appendTarget(h, instruction, to)
		h = protowire.AppendTag(h, number, protowire.VarintType)
		h = protowire.AppendVarint(h, 1)
	}
	return Message{h}
}

func sizeTarget(instruction string, to Target) int {
	n := protowire.SizeTag(partInstruction) + protowire.SizeBytes(len(instruction)) +
		protowire.SizeTag(partTransform) + protowire.SizeBytes(len(to.Transform))
	if to.Family != "" {
		n += protowire.SizeTag(timersFamily) + protowire.SizeBytes(len(to.Family))
	}
	return n
}

func appendTarget(b []byte, instruction string, to Target) []byte {
	b = protowire.AppendTag(b, partInstruction, protowire.BytesType)
	b = protowire.AppendString(b, instruction)
	b = protowire.AppendTag(b, partTransform, protowire.BytesType)
	b = protowire.AppendString(b, to.Transform)
	if to.Family != "" {
		b = protowire.AppendTag(b, timersFamily, protowire.BytesType)
		b = protowire.AppendString(b, to.Family)
	}
	return b
}
