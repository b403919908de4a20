// Package failpoint names the moments of a checkpoint at which tests kill the server: those that differ in what is
// durable. Built without the tag failpoints, as releases are, it does nothing.
package failpoint

// Points, in the order of a checkpoint, its garbage and a recovery.
const (
	BeforeSnapshot = "before-snapshot" // of a task
	AfterUpload    = "after-upload"    // of a task's snapshot, which is not yet answered
	BeforeManifest = "before-manifest"
	AfterManifest  = "after-manifest"
	BeforeAck      = "before-ack" // the tasks don't know yet that the checkpoint is complete
	BeforeCollect  = "before-collect"
	Collecting     = "collecting"   // some garbage is removed
	BeforeBegin    = "before-begin" // a generation has its state, and is not yet the one that counts
	AfterBegin     = "after-begin"
)

// All are all points.
var All = []string{
	BeforeSnapshot, AfterUpload, BeforeManifest, AfterManifest, BeforeAck, BeforeCollect, Collecting, BeforeBegin, AfterBegin,
}

// Variable is the environment variable that names a point, and at the how manieth time it kills: POINT:3.
const Variable = "LINTEL_FAILPOINT"
