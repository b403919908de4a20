package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/lintelrun/lintel/fnapi/environment/docker/dockertest"
	"github.com/lintelrun/lintel/internal/testkit"
)

// built holds what the tests run, compiled at first use into one folder that
// TestMain removes.
var built struct {
	dir    string
	engine *dockertest.Engine // nil if no test has started it
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "lintel-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built.dir = dir
	code := m.Run()
	if built.engine != nil {
		if err := built.engine.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var (
	lintelBinary = testkit.Program(&built.dir, "lintel", root, "./cmd/lintel")
	wordcount    = testkit.Program(&built.dir, "wordcount", examples, "./wordcount")
	windowedavg  = testkit.Program(&built.dir, "windowedavg", examples, "./windowedavg")
	goBoot       = testkit.Program(&built.dir, "go-boot", examples, "github.com/apache/beam/sdks/v2/go/container")
	pythonBoot   = testkit.Program(&built.dir, "python-boot", examples, "github.com/apache/beam/sdks/v2/python/container")
	// Linked statically, for images of nothing else.
	staticWordcount = testkit.Program(&built.dir, "static-wordcount", examples, "./wordcount", "CGO_ENABLED=0")
	staticGoBoot    = testkit.Program(&built.dir, "static-go-boot", examples, "github.com/apache/beam/sdks/v2/go/container", "CGO_ENABLED=0")
)

// examples is the module of pipelines, which has what Beam's boot programs need too.
var examples = filepath.Join(root, "examples", "go")

// root is the repository's folder.
var root = func() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}()
