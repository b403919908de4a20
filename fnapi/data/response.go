package data

import (
	"bytes"
	"slices"
	"unicode/utf8"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/lintelrun/lintel/internal/fault"
)

// Field numbers of org.apache.beam.model.fn_execution.v1.InstructionResponse, of
// ProcessBundleResponse, and of an entry of a map.
const (
	responseProcessBundle protowire.Number = 1001

	bundleMonitoringData protowire.Number = 5

	entryKey   protowire.Number = 1
	entryValue protowire.Number = 2
)

// MonitoringData is an entry of ProcessBundleResponse.monitoring_data: the payload of a metric that a short id names.
type MonitoringData struct{ ID, Payload []byte }

// ReadResponse reads an encoded InstructionResponse. The monitoring data of a ProcessBundleResponse are returned
// beside it, because to make a map of them is most of the work. All belongs to the caller. Bytes that are
// no such message give an error of class Invalid.
func ReadResponse(message []byte) (*fnpb.InstructionResponse, []MonitoringData, error) {
	var entries []MonitoringData
	rest, err := without(nil, message, responseProcessBundle, func(rest []byte, bundle field) ([]byte, error) {
		own := bytes.Clone(bundle.bytes)
		inner, err := without(nil, own, bundleMonitoringData, func(rest []byte, entry field) ([]byte, error) {
			e, err := readEntry(entry)
			if err == nil {
				entries = append(entries, e)
			}
			return rest, err
		})
		rest = protowire.AppendTag(rest, responseProcessBundle, protowire.BytesType)
		return protowire.AppendBytes(rest, inner), err
	})
	resp := new(fnpb.InstructionResponse)
	if err == nil {
		err = proto.Unmarshal(rest, resp)
	}
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "malformed InstructionResponse: %w", err)
	}
	return resp, unique(entries), nil
}

// without appends a message to b, but for the fields of a number, of which instead appends what is to stand for them.
func without(b, message []byte, number protowire.Number, instead func([]byte, field) ([]byte, error)) ([]byte, error) {
	for len(message) > 0 {
		f, n, err := readField(message)
		if err != nil {
			return nil, err
		}
		if f.number != number || f.kind != protowire.BytesType {
			b = append(b, message[:n]...)
		} else if b, err = instead(b, f); err != nil {
			return nil, err
		}
		message = message[n:]
	}
	return b, nil
}

func readEntry(outer field) (e MonitoringData, err error) {
	err = readFields(outer.bytes, func(f field) error {
		switch f.number {
		case entryKey:
			return f.into(&e.ID)
		case entryValue:
			return f.into(&e.Payload)
		}
		return nil
	})
	if err == nil && !utf8.Valid(e.ID) {
		err = fault.New(fault.Invalid, "a short id is not UTF-8")
	}
	return e, err
}

// unique leaves the last entry of each id, as a map has it. Few are compared one by one.
func unique(entries []MonitoringData) []MonitoringData {
	if len(entries) > 64 {
		last := make(map[string]int, len(entries))
		for i, e := range entries {
			last[string(e.ID)] = i
		}
		kept := entries[:0]
		for i, e := range entries {
			if last[string(e.ID)] == i {
				kept = append(kept, e)
			}
		}
		return kept
	}
	kept := entries[:0]
	for i, e := range entries {
		same := func(later MonitoringData) bool { return bytes.Equal(later.ID, e.ID) }
		if !slices.ContainsFunc(entries[i+1:], same) {
			kept = append(kept, e)
		}
	}
	return kept
}
