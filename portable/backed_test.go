package portable_test

import (
	"testing"

	"github.com/lintelrun/lintel/portable/plan"
	. "github.com/lintelrun/lintel/portable/portabletest"
	"github.com/lintelrun/lintel/portable/urns"
)

// Groups may be state-backed only if all that reads them straight from the runner is an SDK
// that knows such iterables.
func TestStateBackedGroups(t *testing.T) {
	for name, c := range map[string]struct {
		make func(p *Pipeline, groups string)
		want bool
	}{
		"one reader":                {func(p *Pipeline, g string) { p.ParDo("read", Env, Bytes, g) }, true},
		"a reader that knows not":   {func(p *Pipeline, g string) { p.ParDo("read", Other, Bytes, g) }, false},
		"no reader":                 {func(*Pipeline, string) {}, false},
		"readers of two kinds":      {func(p *Pipeline, g string) { p.ParDo("read", Env, Bytes, g); p.ParDo("other", Other, Bytes, g) }, false},
		"grouped again":             {func(p *Pipeline, g string) { p.ParDo("read", Env, Bytes, g); p.GroupByKey("again", g) }, false},
		"redistributed":             {func(p *Pipeline, g string) { p.ParDo("read", Env, Bytes, p.Reshuffle("spread", Groups, g)) }, true},
		"flattened, twice the same": {func(p *Pipeline, g string) { p.ParDo("read", Env, Bytes, p.Flatten("all", Groups, g, g)) }, true},
		"flattened with an SDK's": {func(p *Pipeline, g string) {
			mapped := p.ParDo("map", Env, Groups, g)
			p.ParDo("read", Env, Bytes, p.Flatten("all", Groups, g, mapped))
		}, false},
		"a side input": {func(p *Pipeline, g string) {
			p.ParDo("read", Env, Bytes, g)
			p.ParDo("side", Env, Bytes, p.Impulse("second"), g)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := New()
			env := p.Proto.Components.Environments[Env]
			env.Capabilities = append(env.Capabilities, urns.CoderStateBackedIterable)
			c.make(p, p.GroupByKey("group", p.ParDo("kv", Env, KV, p.Impulse("impulse"))))
			pl := compile(t, p)
			for _, s := range pl.Stages {
				if s.Kind != plan.GroupByKey || s.Transforms[0] != "group" {
					continue
				}
				if s.Group.StateBacked != c.want {
					t.Errorf("state-backed: %t, want %t", s.Group.StateBacked, c.want)
				}
				return
			}
			t.Fatal("no stage groups")
		})
	}
}
