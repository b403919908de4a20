package worker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lintelrun/lintel/portable/plan"
)

func virtualClock(streams int) *clock {
	p := &plan.Plan{}
	for range streams {
		p.Stages = append(p.Stages, &plan.Stage{Kind: plan.TestStream})
	}
	return newClock(p)
}

func rang(a *alarm) bool {
	select {
	case <-a.C:
		return true
	default:
		return false
	}
}

// A virtual clock stands still while anything is under way; then TestStreams have their
// turns, in the order in which they ask, and only after the last of them does time go on.
func TestVirtualTimeGoesOnWhenAllIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := virtualClock(2)
		start := c.Now()
		c.begin(3) // two streams and a task
		first, second := c.newAlarm(), c.newAlarm()
		first.set(start.Add(time.Minute))
		second.set(start.Add(time.Hour))
		turns := make(chan string, 10)
		stream := func(name string) {
			for range 2 {
				c.end(1)
				if err := c.turn(t.Context()); err != nil {
					t.Error(err)
				}
				turns <- name
			}
			c.streamEnded()
			c.end(1)
		}
		go stream("a")
		synctest.Wait()
		go stream("b")
		synctest.Wait()
		if len(turns) > 0 {
			t.Fatalf("%s had its turn while a task was busy", <-turns)
		}
		c.end(1)
		synctest.Wait()
		close(turns)
		var order string
		for name := range turns {
			order += name
		}
		if order != "abab" {
			t.Errorf("the turns were %q", order)
		}
		if got := c.Now(); !got.Equal(start.Add(time.Minute)) || !rang(first) || rang(second) {
			t.Errorf("after the last event it is %v after the start, not a minute", got.Sub(start))
		}
		<-time.After(2 * time.Hour) // whoever the alarm woke is under way: nothing else rings
		if !c.Now().Equal(start.Add(time.Minute)) {
			t.Error("time went on while a task was awake")
		}
		c.end(1)
		if got := c.Now(); !got.Equal(start.Add(time.Hour)) || !rang(second) {
			t.Errorf("then it is %v after the start, not an hour", got.Sub(start))
		}
		c.end(1)
	})
}

func TestVirtualAlarms(t *testing.T) {
	c := virtualClock(1)
	c.begin(1)
	a := c.newAlarm()
	a.set(c.Now().Add(10 * time.Second))
	c.advance(9 * time.Second)
	if rang(a) {
		t.Error("it rang too early")
	}
	a.set(c.Now().Add(time.Second))
	c.advance(time.Second)
	if !rang(a) {
		t.Error("it did not ring at its time")
	}
	a.set(c.Now())
	if !rang(a) {
		t.Error("an alarm for now did not ring")
	}
	a.set(time.Time{})
	c.advance(time.Hour)
	if rang(a) {
		t.Error("it rang though it was not set")
	}
	a.set(c.Now())
	a.stop()
	if c.work != 3 { // ours, and the two that have rung and were seen
		t.Errorf("%d things are under way", c.work)
	}
}

func TestTurnsEndWithTheJob(t *testing.T) {
	c := virtualClock(1)
	c.begin(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.turn(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("turn: %v", err)
	}
}

// What an SDK reckons by the machine's clock is as far away by a virtual one; what a fake
// clock says that started at the epoch is meant as it is.
func TestLocalTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := virtualClock(1)
		c.advance(time.Hour)
		if got := c.local(time.Now().UnixMilli() + 500); got != c.Now().UnixMilli()+500 {
			t.Errorf("500 ms from now are %d ms", got-c.Now().UnixMilli())
		}
		if got := c.local(42_000); got != 42_000 {
			t.Errorf("42 s after the epoch are %d ms", got)
		}
		machine := newClock(&plan.Plan{})
		if machine.local(123) != 123 {
			t.Error("the machine's clock changes times")
		}
	})
}

func TestMachineAlarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock(&plan.Plan{})
		a := c.newAlarm()
		defer a.stop()
		a.set(time.Time{})
		a.set(c.Now().Add(time.Minute))
		a.set(c.Now().Add(time.Second))
		<-time.After(time.Second)
		synctest.Wait()
		if !rang(a) {
			t.Error("it did not ring")
		}
		a.set(c.Now().Add(time.Minute))
		a.set(time.Time{})
		<-time.After(time.Hour)
		synctest.Wait()
		if rang(a) {
			t.Error("it rang twice, or though it was not set")
		}
	})
}
