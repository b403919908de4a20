// Package fnapi is the runner's side of Beam's Fn API, which
// holds the conversation with every SDK harness of this process: a server for instructions and data, one
// for state requests, which are many and small, and a gRPC server for the rest.
//
// A Harness is announced with Server.Expect before it is launched. On it the
// runner opens bundles; a Bundle carries its encoded input to the harness, its
// encoded output back, and tells when both the response and every terminator
// have arrived.
package fnapi
