//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// left counts down the times that the point is hit.
var left atomic.Int64

// chosen is the point that kills, "" for none.
var chosen = func() string {
	point, times, _ := strings.Cut(os.Getenv(Variable), ":")
	n, err := strconv.Atoi(times)
	if point != "" && err != nil {
		panic(fmt.Sprintf("%s: %v", Variable, err))
	}
	left.Store(int64(n))
	return point
}()

// Hit is where a point is. It kills the process if that is the one which is chosen.
func Hit(point string) {
	if point != chosen || left.Add(-1) != 0 {
		return
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(err)
	}
	select {}
}
