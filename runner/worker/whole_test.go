package worker

import (
	"strings"
	"sync"
	"testing"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"

	"github.com/lintelrun/lintel/portable/portabletest"
)

// capabilities of TypeScript environments, all of them.
var ofTypeScript = []string{"beam:coder:interval_window:v1", "beam:protocol:sibling_workers:v1"}

func TestWholeBundlesForTypeScriptOnly(t *testing.T) {
	if !wholeBundles(&pipepb.Environment{Capabilities: ofTypeScript}) {
		t.Error("a TypeScript worker would get input in several messages")
	}
	for _, progress := range []string{"beam:protocol:progress_reporting:v0", "beam:protocol:progress_reporting:v1"} {
		if wholeBundles(&pipepb.Environment{Capabilities: append([]string{progress}, ofTypeScript...)}) {
			t.Errorf("an SDK with %s would get whole bundles", progress)
		}
	}
}

// A whole bundle has to fit into one message of 4 MiB.
func TestWholeBundlesAreSmall(t *testing.T) {
	const elements, size = 8000, 1 << 10
	p := portabletest.New()
	p.ParDo("use", pEnv, pBytes, p.ParDo("make", pEnv, pBytes, p.Impulse("impulse")))
	var mu sync.Mutex
	sizes := map[string]int{}
	text := bytesOf(strings.Repeat("x", size))
	c := compile(t, p, map[string]doFn{
		"make": func(c *call) error {
			for range elements {
				c.emit(text)
			}
			return nil
		},
		"use": func(c *call) error {
			mu.Lock()
			defer mu.Unlock()
			sizes[c.bundle.ID] += len(c.element)
			return nil
		},
	})
	for _, env := range c.plan.Environments {
		env.Capabilities = ofTypeScript
	}
	r := newRig(t, c.script)
	r.mustRun(c.plan)
	total := 0
	for id, n := range sizes {
		total += n
		if n > 3<<20 {
			t.Errorf("bundle %s has %d bytes of input", id, n)
		}
	}
	if total != elements*len(text) {
		t.Errorf("%d bytes were processed, want %d", total, elements*len(text))
	}
}
