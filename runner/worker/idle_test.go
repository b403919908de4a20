package worker

import "testing"

func TestItIsToldWhenNoJobRuns(t *testing.T) {
	p := shuffle(t, 50, 7, nil)
	r := newRig(t, p.script)
	idle := make(chan struct{}, 10)
	r.cfg.Hooks.Idle = func() { idle <- struct{}{} }
	for range 2 {
		r.mustRun(p.plan)
		<-idle
		if len(idle) > 0 {
			t.Error("one job's end was told more than once")
		}
	}
}
