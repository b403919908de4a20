package main

// Ceilings: what the wire and the SDK harness alone can do, without any runner.
//   bench --ceiling=grpc     raw BeamFnData stream between two processes, 1 MB messages of encoded KVs
//   bench --ceiling=harness  the Go SDK harness driven by a minimal Fn API stub (no shuffle, no state kept)

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/util/grpcx"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

var (
	fCeiling = flag.String("ceiling", "", "grpc or harness")
	fAddr    = flag.String("addr", "", "internal")
	fMsg     = flag.Int("msg", 1<<20, "ceiling: bytes per data message")
)

func ceiling() bool {
	switch *fCeiling {
	case "":
		return false
	case "grpc":
		grpcCeiling()
	case "grpc-peer":
		grpcPeer()
	case "harness":
		harnessCeiling()
	case "worker":
		initBeam()
		worker()
	}
	return true
}

const big = 256 << 20

// windowed value header: timestamp, 1 window (global: no bytes), pane
var wvHeader = []byte{0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x0f}

func encKV(buf []byte, k int64, v []byte) []byte {
	buf = append(buf, wvHeader...)
	buf = binary.AppendUvarint(buf, uint64(k))
	buf = binary.AppendUvarint(buf, uint64(len(v)))
	return append(buf, v...)
}

// kvMsgs: n elements, in messages of about msg bytes
func kvMsgs(n int64, v, msg int) (out [][]byte) {
	var b []byte
	for i := int64(0); i < n; i++ {
		b = encKV(b, keyOf(i, *fK), value(i, v))
		if len(b) > msg {
			out = append(out, b)
			b = make([]byte, 0, msg+v+64)
		}
	}
	return append(out, b)
}

func walk(b []byte) (n int64) {
	for len(b) > 0 {
		b = b[len(wvHeader):]
		_, i := binary.Uvarint(b)
		b = b[i:]
		l, i := binary.Uvarint(b)
		b = b[i+int(l):]
		n++
	}
	return
}

type dataSrv struct {
	fnpb.UnimplementedBeamFnDataServer
	f func(fnpb.BeamFnData_DataServer) error
}

func (d *dataSrv) Data(s fnpb.BeamFnData_DataServer) error { return d.f(s) }

func childCPU() float64 {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func grpcCeiling() {
	for _, v := range []int{8, 100, 1000} {
		n := *fN
		msgs := kvMsgs(n, v, *fMsg)
		var size int
		for _, m := range msgs {
			size += len(m)
		}
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		srv := grpc.NewServer(grpc.MaxRecvMsgSize(big), grpc.MaxSendMsgSize(big))
		done := make(chan struct{})
		fnpb.RegisterBeamFnDataServer(srv, &dataSrv{f: func(s fnpb.BeamFnData_DataServer) error {
			// down: runner -> SDK
			t, c := time.Now(), cpu()
			for i, m := range msgs {
				e := &fnpb.Elements{Data: []*fnpb.Elements_Data{{InstructionId: "i", TransformId: "t", Data: m, IsLast: i == len(msgs)-1}}}
				if err := s.Send(e); err != nil {
					return err
				}
			}
			s.Recv() // the peer's word that it has all
			rep("grpc runner->sdk", v, n, size, time.Since(t), cpu()-c)
			// up: SDK -> runner, walking the elements
			t, c = time.Now(), cpu()
			var got int64
			for {
				m, err := s.Recv()
				if err != nil {
					return err
				}
				got += walk(m.Data[0].Data)
				if m.Data[0].IsLast {
					break
				}
			}
			rep("grpc sdk->runner, elements walked", v, got, size, time.Since(t), cpu()-c)
			close(done)
			return nil
		}})
		go srv.Serve(lis)
		p := exec.Command(os.Args[0], "--ceiling=grpc-peer", "--addr="+lis.Addr().String())
		p.Stderr = os.Stderr
		p.Start()
		<-done
		p.Process.Kill()
		p.Wait()
		srv.Stop()
	}
}

func rep(what string, v int, n int64, size int, d time.Duration, c float64) {
	pr(map[string]any{"pipeline": what, "v": v, "n": n, "seconds": round(d.Seconds()), "elements_per_s": math.Round(float64(n) / d.Seconds()),
		"MB_per_s": math.Round(float64(size) / 1e6 / d.Seconds()), "runner_cpu_s": round(c), "ns_per_el_runner_cpu": round(c / float64(n) * 1e9), "ok": true})
}

func grpcPeer() {
	cc, err := grpc.NewClient(*fAddr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(big), grpc.MaxCallSendMsgSize(big)))
	if err != nil {
		panic(err)
	}
	s, err := fnpb.NewBeamFnDataClient(cc).Data(context.Background())
	if err != nil {
		panic(err)
	}
	var all []*fnpb.Elements
	for {
		m, err := s.Recv()
		if err != nil {
			panic(err)
		}
		all = append(all, m)
		if m.Data[0].IsLast {
			break
		}
	}
	s.Send(&fnpb.Elements{})
	for _, m := range all {
		s.Send(m)
	}
	s.Recv()
}

// ---- the stub runner ----

type ctlSrv struct {
	fnpb.UnimplementedBeamFnControlServer
	descs map[string]*fnpb.ProcessBundleDescriptor
	ready chan fnpb.BeamFnControl_ControlServer
	stop  chan struct{}
}

func (c *ctlSrv) GetProcessBundleDescriptor(_ context.Context, r *fnpb.GetProcessBundleDescriptorRequest) (*fnpb.ProcessBundleDescriptor, error) {
	return c.descs[r.GetProcessBundleDescriptorId()], nil
}
func (c *ctlSrv) Control(s fnpb.BeamFnControl_ControlServer) error {
	c.ready <- s
	<-c.stop
	return nil
}

type logSrv struct {
	fnpb.UnimplementedBeamFnLoggingServer
}

func (logSrv) Logging(s fnpb.BeamFnLogging_LoggingServer) error {
	for {
		m, err := s.Recv()
		if err != nil {
			return nil
		}
		for _, e := range m.GetLogEntries() {
			if e.GetSeverity() >= fnpb.LogEntry_Severity_WARN {
				fmt.Fprintln(os.Stderr, e.GetMessage())
			}
		}
	}
}

// stSrv keeps bag state in a map, as simply as can be.
type stSrv struct {
	fnpb.UnimplementedBeamFnStateServer
	n int64
}

func (st *stSrv) State(s fnpb.BeamFnState_StateServer) error {
	m := map[string][]byte{}
	for {
		r, err := s.Recv()
		if err != nil {
			return nil
		}
		st.n++
		k := r.GetStateKey().GetBagUserState()
		id := k.GetUserStateId() + "\x00" + string(k.GetKey())
		resp := &fnpb.StateResponse{Id: r.GetId()}
		switch q := r.GetRequest().(type) {
		case *fnpb.StateRequest_Get:
			resp.Response = &fnpb.StateResponse_Get{Get: &fnpb.StateGetResponse{Data: m[id]}}
		case *fnpb.StateRequest_Append:
			m[id] = append(m[id], q.Append.GetData()...)
			resp.Response = &fnpb.StateResponse_Append{Append: &fnpb.StateAppendResponse{}}
		case *fnpb.StateRequest_Clear:
			delete(m, id)
			resp.Response = &fnpb.StateResponse_Clear{Clear: &fnpb.StateClearResponse{}}
		}
		if err := s.Send(resp); err != nil {
			return nil
		}
	}
}

// stage cuts one transform, chosen by its DoFn's name, out of a pipeline into a bundle
// descriptor: data source -> transforms -> data sink (if the last one has an output).
func stage(id, addr string, p *pipepb.Pipeline, names ...string) *fnpb.ProcessBundleDescriptor {
	c := proto.Clone(p.GetComponents()).(*pipepb.Components)
	ep := &pipepb.ApiServiceDescriptor{Url: addr}
	d := &fnpb.ProcessBundleDescriptor{Id: id, Transforms: map[string]*pipepb.PTransform{}, Pcollections: c.GetPcollections(), Coders: c.GetCoders(),
		WindowingStrategies: c.GetWindowingStrategies(), Environments: c.GetEnvironments(), StateApiServiceDescriptor: ep, TimerApiServiceDescriptor: ep}
	var gw string
	for k, x := range c.GetCoders() {
		if x.GetSpec().GetUrn() == "beam:coder:global_window:v1" {
			gw = k
		}
	}
	if gw == "" {
		gw = "gw"
		c.Coders[gw] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: "beam:coder:global_window:v1"}}
	}
	port := func(pcol string) []byte {
		wc := "wv_" + pcol
		c.Coders[wc] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: "beam:coder:windowed_value:v1"}, ComponentCoderIds: []string{c.Pcollections[pcol].CoderId, gw}}
		b, _ := proto.Marshal(&fnpb.RemoteGrpcPort{ApiServiceDescriptor: ep, CoderId: wc})
		return b
	}
	for i, nm := range names {
		found := false
		for tid, t := range c.GetTransforms() {
			if t.GetSpec().GetUrn() != "beam:transform:pardo:v1" || !strings.Contains(t.GetUniqueName(), nm) {
				continue
			}
			found = true
			d.Transforms[tid] = t
			if i == 0 {
				for _, pc := range t.GetInputs() {
					d.Transforms["source"] = &pipepb.PTransform{UniqueName: "source", Spec: &pipepb.FunctionSpec{Urn: "beam:runner:source:v1", Payload: port(pc)}, Outputs: map[string]string{"o": pc}}
				}
			}
			if i == len(names)-1 {
				for _, pc := range t.GetOutputs() {
					d.Transforms["sink"] = &pipepb.PTransform{UniqueName: "sink", Spec: &pipepb.FunctionSpec{Urn: "beam:runner:sink:v1", Payload: port(pc)}, Inputs: map[string]string{"i": pc}}
				}
			}
		}
		if !found {
			panic("no transform " + nm)
		}
	}
	return d
}

func marshal(build func(s beam.Scope)) *pipepb.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	build(s)
	edges, _, err := p.Build()
	if err != nil {
		panic(err)
	}
	env, _ := graphx.CreateEnvironment(context.Background(), "beam:env:external:v1", func(context.Context) string { return "x" })
	pl, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		panic(err)
	}
	return pl
}

func harnessCeiling() {
	initBeam()
	N := *fN
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	addr := lis.Addr().String()
	gbk := marshal(func(s beam.Scope) {
		sh := beam.ParDo(s, &shardFn{S: 1}, beam.Impulse(s))
		beam.ParDo0(s, &gbkSink{}, beam.GroupByKey(s, beam.ParDo(s, &genKV{N, *fK, *fV, 1}, sh)))
	})
	stf := marshal(func(s beam.Scope) {
		sh := beam.ParDo(s, &shardFn{S: 1}, beam.Impulse(s))
		c := beam.ParDo(s, &genKI{N, *fK, 1, false}, sh)
		c = beam.ParDo(s, &valueStateFn{Count: state.MakeValueState[int64]("count")}, c)
		beam.ParDo0(s, &kiSink{}, c)
	})
	ctl := &ctlSrv{ready: make(chan fnpb.BeamFnControl_ControlServer, 1), stop: make(chan struct{}), descs: map[string]*fnpb.ProcessBundleDescriptor{
		"produce":  stage("produce", addr, gbk, "genKV"),
		"consume":  stage("consume", addr, gbk, "gbkSink"),
		"stateful": stage("stateful", addr, stf, "valueStateFn", "kiSink"),
		"ki":       stage("ki", addr, stf, "kiSink"),
	}}
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(big), grpc.MaxSendMsgSize(big))
	dataCh := make(chan fnpb.BeamFnData_DataServer, 1)
	var recv struct {
		sync.Mutex
		bytes int
		last  chan string
	}
	recv.last = make(chan string, 10)
	fnpb.RegisterBeamFnControlServer(srv, ctl)
	fnpb.RegisterBeamFnLoggingServer(srv, logSrv{})
	st := &stSrv{}
	fnpb.RegisterBeamFnStateServer(srv, st)
	fnpb.RegisterBeamFnDataServer(srv, &dataSrv{f: func(s fnpb.BeamFnData_DataServer) error {
		dataCh <- s
		for {
			m, err := s.Recv()
			if err != nil {
				return nil
			}
			for _, d := range m.GetData() {
				recv.bytes += len(d.GetData())
				if d.GetIsLast() {
					recv.last <- d.GetInstructionId()
				}
			}
		}
	}})
	go srv.Serve(lis)
	// the worker: a process of its own
	p := exec.Command(os.Args[0], "--ceiling=worker", "--addr="+addr)
	p.Stderr, p.Stdout = os.Stderr, os.Stderr
	if err := p.Start(); err != nil {
		panic(err)
	}
	defer func() { p.Process.Kill(); p.Wait() }()
	c := <-ctl.ready

	var data fnpb.BeamFnData_DataServer
	id := 0
	bundle := func(what, desc string, n int64, hasSink bool, in [][]byte) {
		id++
		iid := fmt.Sprint("i", id)
		recv.bytes = 0
		size := 0
		t, c0, k0, s0 := time.Now(), cpu(), procCPU(p.Process.Pid), st.n
		c.Send(&fnpb.InstructionRequest{InstructionId: iid, Request: &fnpb.InstructionRequest_ProcessBundle{ProcessBundle: &fnpb.ProcessBundleRequest{ProcessBundleDescriptorId: desc}}})
		if data == nil {
			data = <-dataCh
		}
		for i, m := range in {
			size += len(m)
			data.Send(&fnpb.Elements{Data: []*fnpb.Elements_Data{{InstructionId: iid, TransformId: "source", Data: m}}})
			_ = i
		}
		data.Send(&fnpb.Elements{Data: []*fnpb.Elements_Data{{InstructionId: iid, TransformId: "source", IsLast: true}}})
		r, err := c.Recv()
		if err != nil || r.GetError() != "" {
			panic(fmt.Sprint(err, r.GetError()))
		}
		if hasSink {
			<-recv.last
		}
		d := time.Since(t)
		sc := procCPU(p.Process.Pid) - k0
		pr(map[string]any{"pipeline": "harness " + what, "n": n, "seconds": round(d.Seconds()), "elements_per_s": math.Round(float64(n) / d.Seconds()),
			"MB_per_s": math.Round(float64(size+recv.bytes) / 1e6 / d.Seconds()), "stub_cpu_s": round(cpu() - c0), "sdk_cpu_s": round(sc),
			"sdk_ns_per_el": math.Round(sc / float64(n) * 1e9), "sdk_only_el_per_s": math.Round(float64(n) / max(sc, 0.001)), "state_requests": st.n - s0, "ok": true})
	}
	one := append(append([]byte(nil), wvHeader...), 0) // shard 0
	// group the KVs
	groups := make([][]byte, *fK)
	counts := make([]int32, *fK)
	for i := int64(0); i < N; i++ {
		k := keyOf(i, *fK)
		v := value(i, int(*fV))
		groups[k] = append(binary.AppendUvarint(groups[k], uint64(len(v))), v...)
		counts[k]++
	}
	var grouped [][]byte
	var b bytes.Buffer
	for k := range groups {
		if counts[k] == 0 {
			continue
		}
		b.Write(wvHeader)
		b.Write(binary.AppendUvarint(nil, uint64(k)))
		binary.Write(&b, binary.BigEndian, counts[k])
		b.Write(groups[k])
		if b.Len() > *fMsg {
			grouped = append(grouped, append([]byte(nil), b.Bytes()...))
			b.Reset()
		}
	}
	grouped = append(grouped, b.Bytes())
	var ki [][]byte
	var kb []byte
	for i := int64(0); i < N; i++ {
		kb = append(kb, wvHeader...)
		kb = binary.AppendUvarint(kb, uint64(keyOf(i, *fK)))
		kb = binary.AppendUvarint(kb, uint64(i))
		if len(kb) > *fMsg || i == N-1 {
			ki = append(ki, kb)
			kb = nil
		}
	}
	ns := min(N, 50_000)
	var sti [][]byte
	var sb []byte
	for i := int64(0); i < ns; i++ {
		sb = append(sb, wvHeader...)
		sb = binary.AppendUvarint(sb, uint64(keyOf(i, *fK)))
		sb = binary.AppendUvarint(sb, uint64(i))
	}
	sti = append(sti, sb)
	for rep := 0; rep < 3; rep++ {
		bundle("produce KV<i64,bytes> (gen -> data sink)", "produce", N, true, [][]byte{one})
		bundle("consume KV<i64,iterable<bytes>>", "consume", N, false, grouped)
		bundle("consume KV<i64,i64>", "ki", N, false, ki)
		bundle("stateful value read+write", "stateful", ns, false, sti)
		bundle("empty bundle", "ki", 1, false, [][]byte{ki[0][:0]})
	}
}

func procCPU(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var u, s float64
	fmt.Sscan(f[11], &u)
	fmt.Sscan(f[12], &s)
	return (u + s) / 100
}

func worker() {
	ctx := grpcx.WriteWorkerID(context.Background(), "w")
	if err := harness.MainWithOptions(ctx, *fAddr, *fAddr, harness.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
	}
}

func initBeam() { beam.Init() }
