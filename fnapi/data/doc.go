// Package data is the wire format of the Fn API's Data and State services, and in part of Control, without the
// objects: messages of elements are read in place and written around the
// caller's payload, so that the runner touches each payload once on its way in
// and never on its way out.
//
// It holds the gRPC codec of the Fn API's other services too: ordinary protobuf.
package data
