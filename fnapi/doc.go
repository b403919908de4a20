// Package fnapi is the runner's side of Beam's Fn API: a gRPC server that
// holds the conversation with every SDK harness of this process, and beside it
// one for state requests, which are many and small.
//
// A Harness is announced with Server.Expect before it is launched. On it the
// runner opens bundles; a Bundle carries its encoded input to the harness, its
// encoded output back, and tells when both the response and every terminator
// have arrived.
package fnapi
