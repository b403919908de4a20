// Package h2 serves gRPC's bidirectional streams over HTTP/2 without TLS, for
// methods whose messages are many, small and quickly answered.
//
// A connection has one goroutine. It reads frames, hands each message to the
// stream's Receiver where it lies in the read buffer, gathers the replies, and
// writes them when it has worked through its input: a request costs a read and a
// write, and no switch between goroutines. Acknowledgements of pings are
// delayed, because gRPC's clients measure the bandwidth with a ping for each
// message that they receive, and send the next when the last has been
// acknowledged.
//
// Messages may be long, too: they are kept without copying (Stream.Keep, Stream.Batch), and receivers
// that are full hold up their stream only (Gate).
package h2
