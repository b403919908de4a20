//go:build !failpoints

package failpoint

// Hit is where a point is. Built with the tag failpoints it may kill the process.
func Hit(string) {}
