package worker

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"github.com/google/go-cmp/cmp"

	"github.com/lintelrun/lintel/fnapi/fnapitest"
	"github.com/lintelrun/lintel/internal/fault"
	"github.com/lintelrun/lintel/portable/coders"
	"github.com/lintelrun/lintel/portable/plan"
	"github.com/lintelrun/lintel/portable/portabletest"
)

// slow is a pipeline whose "work" gets ten numbers in one bundle of one task,
// and a harness that splits that bundle as a test says.
type slow struct {
	*program
	rig *rig
	// hold is called in a bundle of "work" before its first element, with the
	// elements it was sent; what it returns are those it processes.
	hold func(me *process, b *fnapitest.Bundle, elements []string) ([]string, error)
	// split answers split requests, unless refuse has an error for them.
	split  func(me *process, b *fnapitest.Bundle, req *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse
	refuse func(b *fnapitest.Bundle) error

	begun   sync.Map // *fnapitest.Bundle of "work" that have their input
	mu      sync.Mutex
	bundles [][]string // of "work", as sent, failed ones too
}

const slowElements = 10

func newSlow(t *testing.T) *slow {
	p := portabletest.New()
	work := p.ParDo("work", pEnv, pBytes, p.ParDo("split", pEnv, pBytes, p.Impulse("impulse")))
	p.ParDo("write", pEnv, pBytes, work)
	s := &slow{program: compile(t, p, map[string]doFn{"split": split(slowElements), "write": collector})}
	s.rig = newRig(t, s.script)
	s.rig.cfg.Splits = Splits{After: 5 * time.Millisecond, LookEvery: 2 * time.Millisecond}
	return s
}

func (s *slow) script(me *process) fnapitest.Script {
	return fnapitest.Script{
		Process: func(b *fnapitest.Bundle) error {
			st := s.stage(b)
			if st.Transforms[0] != "work" {
				return s.process(b)
			}
			return s.work(me, b, st)
		},
		Split: func(b *fnapitest.Bundle, req *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
			if _, begun := s.begun.Load(b); !begun {
				return &fnpb.ProcessBundleSplitResponse{}
			}
			return s.split(me, b, req)
		},
		RefuseSplit: s.refuse,
	}
}

func (s *slow) work(me *process, b *fnapitest.Bundle, st *plan.Stage) error {
	var sent []string
	for in, err := range b.Input() {
		if err != nil {
			return err
		}
		var el coders.Element
		for rest := in.Data; len(rest) > 0; rest = rest[el.Size:] {
			if err := st.In[0].Coder.Next(rest, &el); err != nil {
				return err
			}
			sent = append(sent, text(el.Value))
		}
	}
	s.mu.Lock()
	s.bundles = append(s.bundles, sent)
	s.mu.Unlock()
	s.begun.Store(b, nil)
	sent, err := s.hold(me, b, sent)
	if err != nil || len(sent) == 0 {
		return err
	}
	var out []byte
	for _, e := range sent {
		out = append(out, windowed(0, bytesOf(e))...)
	}
	return b.Emit(st.Exec.Sinks[0], out)
}

// answer is a split that keeps the elements before n and gives away the others.
func (s *slow) answer(b *fnapitest.Bundle, n int) *fnpb.ProcessBundleSplitResponse {
	return &fnpb.ProcessBundleSplitResponse{ChannelSplits: []*fnpb.ProcessBundleSplitResponse_ChannelSplit{
		{TransformId: s.stage(b).Exec.Source, LastPrimaryElement: int64(n) - 1, FirstResidualElement: int64(n)}}}
}

func (s *slow) wantEach(t *testing.T, want ...string) {
	t.Helper()
	if want == nil {
		for i := range slowElements {
			want = append(want, fmt.Sprint(i))
		}
	}
	for i := range want {
		want[i] = string(bytesOf(want[i]))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, s.got("write")); diff != "" {
		t.Errorf("elements lost or doubled (-want +got):\n%s", diff)
	}
}

// wait until c is closed or the harness ends.
func (p *process) wait(c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-p.stop:
		return errors.New("stopped")
	}
}

func TestSplitWorkRunsBeside(t *testing.T) {
	for _, failures := range []int{0, 2} {
		t.Run(fmt.Sprintf("%d failures", failures), func(t *testing.T) {
			s := newSlow(t)
			asked := make(chan struct{})
			beside := make(chan struct{})
			var once sync.Once
			var failed int
			s.split = func(_ *process, b *fnapitest.Bundle, req *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
				answer := &fnpb.ProcessBundleSplitResponse{}
				once.Do(func() {
					d := req.GetDesiredSplits()[s.stage(b).Exec.Source]
					if len(req.GetDesiredSplits()) != 1 || d.GetEstimatedInputElements() != slowElements || d.GetFractionOfRemainder() != 0.5 {
						t.Errorf("asked for %v", req)
					}
					answer = s.answer(b, 3)
					close(asked)
				})
				return answer
			}
			s.hold = func(me *process, _ *fnapitest.Bundle, sent []string) ([]string, error) {
				switch {
				case len(sent) == slowElements: // it ends after what it gave away
					if err := errors.Join(me.wait(asked), me.wait(beside)); err != nil {
						return nil, err
					}
					sent = sent[:3]
				case sent[0] == "3":
					close(beside)
					return sent, nil
				}
				if failed++; failed <= failures {
					return nil, errors.New("not today")
				}
				return sent, nil
			}
			s.rig.mustRun(s.plan)
			s.wantEach(t)
			want := [][]string{{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}, {"3", "4", "5", "6", "7", "8", "9"}}
			for range failures { // the primary only
				want = append(want, []string{"0", "1", "2"})
			}
			if diff := cmp.Diff(want, s.bundles); diff != "" {
				t.Errorf("bundles (-want +got):\n%s", diff)
			}
		})
	}
}

// A split within an element: the retry gets the part that was kept, the other
// part runs beside with what follows, once its delay is over.
func TestSplitWithinAnElement(t *testing.T) {
	s := newSlow(t)
	asked := make(chan struct{})
	var once sync.Once
	root := func(e string) *fnpb.BundleApplication {
		return &fnpb.BundleApplication{TransformId: "work", InputId: "i0", Element: windowed(0, bytesOf(e))}
	}
	s.split = func(_ *process, b *fnapitest.Bundle, _ *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
		answer := &fnpb.ProcessBundleSplitResponse{}
		once.Do(func() {
			answer = s.answer(b, 5)
			answer.ChannelSplits[0].LastPrimaryElement = 3
			answer.PrimaryRoots = []*fnpb.BundleApplication{root("4a")}
			answer.ResidualRoots = []*fnpb.DelayedBundleApplication{{Application: root("4b")}}
			close(asked)
		})
		return answer
	}
	s.hold = func(me *process, _ *fnapitest.Bundle, sent []string) ([]string, error) {
		if len(sent) < slowElements {
			return sent, nil
		}
		if err := me.wait(asked); err != nil {
			return nil, err
		}
		return nil, errors.New("not today")
	}
	s.rig.mustRun(s.plan)
	s.wantEach(t, "0", "1", "2", "3", "4a", "4b", "5", "6", "7", "8", "9")
	if !slices.ContainsFunc(s.bundles, func(b []string) bool { return slices.Equal(b, []string{"0", "1", "2", "3", "4a"}) }) {
		t.Errorf("bundles %q: the retry did not get the primary", s.bundles)
	}
}

// The answer to a split and the response are on their way at the same time, in
// either order: what was given away is processed.
func TestSplitAnswerComesWithTheResponse(t *testing.T) {
	for i := range 20 {
		s := newSlow(t)
		asked, responded := make(chan struct{}), make(chan struct{})
		var once sync.Once
		s.split = func(_ *process, b *fnapitest.Bundle, _ *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
			answer := &fnpb.ProcessBundleSplitResponse{}
			once.Do(func() {
				answer = s.answer(b, 4)
				close(asked)
				if i%2 == 0 {
					<-responded
				}
			})
			return answer
		}
		s.hold = func(me *process, b *fnapitest.Bundle, sent []string) ([]string, error) {
			if len(sent) < slowElements {
				return sent, nil
			}
			if err := me.wait(asked); err != nil {
				return nil, err
			}
			var out []byte
			for _, e := range sent[:4] {
				out = append(out, windowed(0, bytesOf(e))...)
			}
			err := errors.Join(b.Emit(s.stage(b).Exec.Sinks[0], out), b.Terminate(), b.Respond(&fnpb.ProcessBundleResponse{}))
			close(responded)
			return nil, err
		}
		s.rig.mustRun(s.plan)
		s.wantEach(t)
	}
}

// A harness that has split a bundle, and ended it well, is lost before it can tell what
// it gave away: the bundle is tried again.
func TestHarnessIsLostBeforeItAnswersASplit(t *testing.T) {
	for range 10 {
		s := newSlow(t)
		s.rig.deployment.Harnesses = 1 // and one after it
		asked, responded := make(chan struct{}), make(chan struct{})
		var once sync.Once
		s.split = func(me *process, b *fnapitest.Bundle, _ *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
			once.Do(func() {
				close(asked)
				<-responded
				if _, err := me.fake.Provision(); err != nil { // what was sent before has arrived
					t.Error(err)
				}
				me.die(errCrash)
				<-me.stop
			})
			return &fnpb.ProcessBundleSplitResponse{}
		}
		s.hold = func(me *process, b *fnapitest.Bundle, sent []string) ([]string, error) {
			if me.n > 1 || len(sent) < slowElements {
				return sent, nil
			}
			if err := me.wait(asked); err != nil {
				return nil, err
			}
			var out []byte
			for _, e := range sent[:4] {
				out = append(out, windowed(0, bytesOf(e))...)
			}
			err := errors.Join(b.Emit(s.stage(b).Exec.Sinks[0], out), b.Terminate(), b.Respond(&fnpb.ProcessBundleResponse{}))
			close(responded)
			return nil, err
		}
		s.rig.mustRun(s.plan)
		s.wantEach(t)
	}
}

func TestHarnessThatNeverAnswersASplit(t *testing.T) {
	silent := func(s *slow) (asked chan struct{}) {
		asked = make(chan struct{}, 100)
		// On a busy machine "write" is asked too, and must answer in time: it counts what it is given.
		s.rig.cfg.Splits.Timeout = 500 * time.Millisecond
		s.split = func(me *process, _ *fnapitest.Bundle, _ *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
			asked <- struct{}{}
			<-me.stop
			return &fnpb.ProcessBundleSplitResponse{}
		}
		return asked
	}
	t.Run("nor ends", func(t *testing.T) {
		s := newSlow(t)
		silent(s)
		s.hold = func(me *process, _ *fnapitest.Bundle, _ []string) ([]string, error) {
			<-me.stop
			return nil, errors.New("stopped")
		}
		_, err := s.rig.run(s.plan)
		wantError(t, err, fault.Retryable, "split of a running bundle, to be answered within 500ms", "failed 4 times")
	})
	t.Run("but ends", func(t *testing.T) {
		s := newSlow(t)
		asked := silent(s)
		var attempts atomic.Int64
		s.hold = func(me *process, _ *fnapitest.Bundle, sent []string) ([]string, error) {
			if attempts.Add(1) == 1 {
				select {
				case <-asked:
				case <-me.stop:
				}
			}
			return sent, nil
		}
		s.rig.mustRun(s.plan)
		s.wantEach(t)
		if n := attempts.Load(); n < 2 {
			t.Errorf("%d attempts: one was committed that may have given work away", n)
		}
	})
}

func TestSplitAgainstTheProtocol(t *testing.T) {
	for name, c := range map[string]struct {
		class  fault.Class
		text   string
		change func(*fnpb.ProcessBundleSplitResponse)
	}{
		"roots without a position": {fault.Retryable, "with roots and no position", func(a *fnpb.ProcessBundleSplitResponse) {
			a.ChannelSplits = nil
			a.PrimaryRoots = []*fnpb.BundleApplication{{Element: windowed(0, bytesOf("x"))}}
		}},
		"another input": {fault.Retryable, `"nobody"`, func(a *fnpb.ProcessBundleSplitResponse) { a.ChannelSplits[0].TransformId = "nobody" }},
		"garbage": {fault.Retryable, "root of", func(a *fnpb.ProcessBundleSplitResponse) {
			a.PrimaryRoots = []*fnpb.BundleApplication{{Element: []byte{1}}}
		}},
		"wrong order": {fault.Invalid, "last primary element 3", func(a *fnpb.ProcessBundleSplitResponse) { a.ChannelSplits[0].FirstResidualElement = 2 }},
		"a gap":       {fault.Invalid, "in between", func(a *fnpb.ProcessBundleSplitResponse) { a.ChannelSplits[0].FirstResidualElement = 6 }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSlow(t)
			s.split = func(_ *process, b *fnapitest.Bundle, _ *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
				answer := s.answer(b, 4)
				c.change(answer)
				return answer
			}
			s.hold = func(me *process, _ *fnapitest.Bundle, _ []string) ([]string, error) {
				<-me.stop
				return nil, errors.New("stopped")
			}
			_, err := s.rig.run(s.plan)
			wantError(t, err, c.class, c.text)
			if len(s.got("write")) > 0 {
				t.Error("there is output")
			}
		})
	}
}

func TestBundlesThatDoNotSplitAreAskedLessAndLess(t *testing.T) {
	s := newSlow(t)
	times := make(chan time.Time, 100)
	s.split = func(*process, *fnapitest.Bundle, *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
		times <- time.Now()
		return &fnpb.ProcessBundleSplitResponse{}
	}
	const asks = 5
	s.hold = func(me *process, _ *fnapitest.Bundle, sent []string) ([]string, error) {
		var first, last time.Time
		for i := range asks {
			select {
			case last = <-times:
			case <-me.stop:
				return nil, errors.New("stopped")
			}
			if i == 0 {
				first = last
			}
		}
		if took, least := last.Sub(first), (10+20+40+80)*time.Millisecond/2; took < least {
			return nil, fmt.Errorf("asked %d times within %v, the pauses should be %v at least", asks, took, least)
		}
		return sent, nil
	}
	s.rig.mustRun(s.plan)
	s.wantEach(t)
}

// An error may be of a harness that has not begun the bundle (TypeScript's), or of the user's
// restriction tracker: Go's TestFailure_SplitError.
func TestRefusedSplits(t *testing.T) {
	for _, times := range []int64{maxRefused - 1, maxRefused} {
		s := newSlow(t)
		var asked sync.Map // *atomic.Int64 by attempt
		done := make(chan struct{})
		s.refuse = func(b *fnapitest.Bundle) error {
			n, _ := asked.LoadOrStore(b, new(atomic.Int64))
			if _, begun := s.begun.Load(b); begun && n.(*atomic.Int64).Add(1) <= times {
				return errors.New("tracker: can't")
			}
			return nil
		}
		finish := sync.OnceFunc(func() { close(done) })
		s.split = func(*process, *fnapitest.Bundle, *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
			finish()
			return &fnpb.ProcessBundleSplitResponse{}
		}
		s.hold = func(me *process, _ *fnapitest.Bundle, sent []string) ([]string, error) {
			return sent, me.wait(done)
		}
		_, err := s.rig.run(s.plan)
		if times < maxRefused {
			if err != nil {
				t.Errorf("refused %d times: %v", times, err)
			}
			continue
		}
		wantError(t, err, fault.UserCode, "tracker: can't")
	}
}
