package worker

import (
	"fmt"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// cacheToken says whether a harness may go on with what it has kept of a task's
// user state: while it alone has served the task's bundles, and all of them were
// committed. What a failed bundle has written is in its cache as well.
type cacheToken struct {
	mu      sync.Mutex
	harness *harness // that served the last bundle; nil after a failure
	serial  int
}

// next returns the number of the token for a bundle that h is to run: the last
// one's, if it may go on with that.
func (c *cacheToken) next(h *harness) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.harness != h {
		c.harness = h
		c.serial++
	}
	return c.serial
}

// fail makes the next bundle's token a new one.
func (c *cacheToken) fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.harness = nil
}

// stateToken adds the token for user state of a bundle that h is to run now.
func (x *execTask) stateToken(h *harness, tokens []*fnpb.ProcessBundleRequest_CacheToken) []*fnpb.ProcessBundleRequest_CacheToken {
	if x.keyed == nil {
		return tokens
	}
	return append(tokens, &fnpb.ProcessBundleRequest_CacheToken{
		Type: &fnpb.ProcessBundleRequest_CacheToken_UserState_{UserState: &fnpb.ProcessBundleRequest_CacheToken_UserState{}},
		// Harnesses keep what they know beyond a job.
		Token: fmt.Appendf(nil, "%s/%d/%s/%d/%d", x.e.d.JobID, x.e.d.Generation, x.stage.ID, x.index, x.keyed.token.next(h)),
	})
}
