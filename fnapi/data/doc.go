// Package data is the wire format of the Fn API's Data and State services without the
// objects: messages of elements are read in place and written around the
// caller's payload, so that the runner touches each payload once on its way in
// and never on its way out.
//
// It holds the gRPC codec of the whole Fn API server too, which treats every
// other message as ordinary protobuf.
package data
